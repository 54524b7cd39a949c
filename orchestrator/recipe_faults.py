"""What is wrong with a recipe, in words a person can act on.

Such as
    stages.ppo.sampling.temperature: must be above 0, is -1 (line 31)
    stages.ppo.algorithm.clip_rnage: unknown key; did you mean clip_range? (line 40)
"""

import json
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from orchestrator.recipe_settings import FILE_TAG, ROWS_TAG, DataSettings
from orchestrator.recipe_stages import STAGE_KINDS, Stage


class RecipeError(ValueError):
    """A recipe cannot be used; `faults` lists every reason, `source` names the recipe."""

    def __init__(self, source: str, faults: list[str]) -> None:
        self.source, self.faults = source, faults
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        super().__init__("\n".join([f"{source}: {count}", *(f"  {fault}" for fault in faults)]))


_BOUNDS = {
    "greater_than": ("must be above", "gt"),
    "greater_than_equal": ("must be at least", "ge"),
    "less_than": ("must be below", "lt"),
    "less_than_equal": ("must be at most", "le"),
}
_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def schema_faults(error: ValidationError, model: type[BaseModel]) -> list[tuple[tuple[str | int, ...], str]]:
    """(path, message) of each fault that pydantic found in a `model`."""
    return [(_path(fault["loc"]), _message(fault, model)) for fault in error.errors(include_url=False)]


def _message(fault: Mapping[str, Any], model: type[BaseModel]) -> str:
    kind, given, context = fault["type"], fault["input"], fault.get("ctx", {})
    if kind in _BOUNDS:
        words, limit = _BOUNDS[kind]
        return f"{words} {context[limit]:g}, is {shown(given)}"
    if kind in _WANTED:
        return f"must be {_WANTED[kind]}, is {shown(given)}"
    if kind == "missing":
        return "is required" + _described(fault["loc"], model)
    if kind == "extra_forbidden":
        return "unknown key" + suggestion(str(fault["loc"][-1]), _keys_at(fault["loc"][:-1], model))
    if kind == "literal_error":
        return f"must be {context['expected']}, is {shown(given)}"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _kind_message(given, context)
    if kind == "string_pattern_mismatch":
        return f"must match {context['pattern']}, is {shown(given)}"
    if kind == "string_too_short":
        return "must not be empty"
    if kind == "value_error":
        return str(context["error"])
    return f"{fault['msg']}, is {shown(given)}"


def _kind_message(given: Any, context: Mapping[str, Any]) -> str:
    known = list(STAGE_KINDS)
    kind = given.get("kind") if isinstance(given, dict) else None
    if kind is None:
        return f"kind is required, one of {', '.join(known)}"
    return f"unknown kind {shown(kind)}{suggestion(str(kind), known)} (kinds: {', '.join(known)})"


def shown(value: Any) -> str:
    """A value as a recipe would write it, shortened."""
    text = "empty" if value is None else json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def suggestion(given: str, known: Iterable[str]) -> str:
    """`; did you mean clip_range?`, or the known names where none is near and they are few."""
    names = list(known)
    near = get_close_matches(given, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; known: {', '.join(names)}" if 0 < len(names) <= 8 else ""


def dotted(path: Iterable[str | int]) -> str:
    """("stages", "ppo", "stop", 0) is `stages.ppo.stop[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _path(location: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """The path as the recipe has it, without pydantic's additions: a stage's kind, data's form, [key]."""
    location = tuple(part for part in location if part not in (FILE_TAG, ROWS_TAG))
    if len(location) > 2 and location[0] == "stages" and location[2] in STAGE_KINDS:
        location = (*location[:2], *location[3:])
    return location[:-1] if location and location[-1] == "[key]" else location


def _described(location: tuple[str | int, ...], model: type[BaseModel]) -> str:
    holder = _model_at(location[:-1], model)
    found = holder.model_fields.get(str(location[-1])) if holder else None
    return f": {found.description}" if found and found.description else ""


def _keys_at(location: tuple[str | int, ...], model: type[BaseModel]) -> list[str]:
    holder = _model_at(location, model)
    return list(holder.model_fields) if holder else []


def _model_at(location: tuple[str | int, ...], model: type[BaseModel]) -> type[BaseModel] | None:
    """The record that a location of pydantic's lies in."""
    here: Any = model
    for part in location:
        if part == ROWS_TAG:
            here = DataSettings
        elif isinstance(here, type) and issubclass(here, BaseModel):
            found = here.model_fields.get(str(part))
            here = _bare(found.annotation) if found else None
        elif here is Stage:
            here = STAGE_KINDS.get(str(part))
        elif get_origin(here) in (dict, list):
            value = get_args(here)[-1]
            here = value if value is Stage else _bare(value)
        else:
            return None
    return here if isinstance(here, type) and issubclass(here, BaseModel) else None


def _bare(annotation: Any) -> Any:
    """The type without Annotated and without `| None`."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    options = [option for option in get_args(annotation) if option is not type(None)]
    if type(None) in get_args(annotation) and len(options) == 1:
        return _bare(options[0])
    return annotation
