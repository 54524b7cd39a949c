"""Checks what holds between parts of a recipe: artifacts, scorers, placeholders and files.

They read the recipe as written, not as parsed, so that one wrong number hides no wrong name.
"""

import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from orchestrator.recipe_faults import suggestion
from orchestrator.recipe_settings import HUB, IsPath, Makes, NamesScorer, Needs
from orchestrator.recipe_stages import STAGE_KINDS

Place = tuple[str | int, ...]
Fault = tuple[Place, str]
PLACEHOLDER = re.compile(r"\{([A-Za-z_]+)\}")
PLACEHOLDERS = ("prepared", "run", "seed")
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def graph_faults(raw: dict[str, Any]) -> list[Fault]:
    """Artifacts that nothing makes or two make, of the wrong kind, or unused; scorers that nobody hosts."""
    models = _mapping(raw.get("models"))
    made: dict[str, tuple[str, str]] = {name: ("model", f"models.{name}") for name in models}
    reward = _mapping(_mapping(raw.get("services")).get("reward"))
    learned, rules = _texts(reward.get("learned")), _mapping(reward.get("rules"))
    combined = _mapping(reward.get("combined"))
    faults: list[Fault] = []
    used: set[str] = set()
    for path, marker, name in marked_values(raw, (Needs, Makes, NamesScorer)):
        if isinstance(marker, Makes):
            if name in made:
                faults.append((path, f"{name!r} is already made by {made[name][1]}"))
            made.setdefault(name, (marker.kind, f"stages.{path[1]}"))
        elif isinstance(marker, Needs):
            used.add(name)
            faults += _need_faults(path, name, marker.kinds, made)
        elif name in learned or name in combined:
            models_of = [part for part in _parts(name, combined) if part in learned]
            used.update(models_of)
            for part in models_of:
                faults += _need_faults(path, part, ("reward",), made)
        elif name not in rules:
            known = suggestion(name, [*learned, *rules, *combined])
            faults.append((path, f"the reward service hosts no scorer {name!r}{known}"))
    hosted: list[tuple[Place, str]] = [
        (("services", "reward", "learned", index), name) for index, name in enumerate(learned)
    ]
    judge = _mapping(_mapping(raw.get("services")).get("judge"))
    judges: list[tuple[Place, Any]] = [(("services", "judge", "model"), judge.get("model"))]
    judges += [
        (("services", "judge", "rotation", index), name)
        for index, name in enumerate(_texts(judge.get("rotation")))
    ]
    for place, name in judges:
        if isinstance(name, str):
            hosted.append((place, name))
            used.add(name)
    for place, name in hosted:
        if name not in made:
            faults.append((place, f"no model or stage makes {name!r}{suggestion(name, made)}"))
    if not faults:  # a misspelt use would also be reported as an unused model
        faults += [(("models", name), "no stage uses it") for name in models if name not in used]
    return faults


def _parts(name: str, combined: dict[Any, Any]) -> list[str]:
    """The scorers that a scorer is made of, down to those that are made of none."""
    found, pending, seen = [], [name], set()
    while pending:
        scorer = pending.pop()
        if scorer in seen:
            continue
        seen.add(scorer)
        if scorer in combined:
            pending += _texts(_mapping(combined[scorer]).get("parts"))
        else:
            found.append(scorer)
    return sorted(found)


def _need_faults(
    path: Place, name: str, kinds: tuple[str, ...], made: dict[str, tuple[str, str]]
) -> Iterator[Fault]:
    if name not in made:
        yield path, f"no model or earlier stage makes {name!r}" + suggestion(name, made)
    elif made[name][0] not in (*kinds, "model"):  # what kind a given directory is shows when it is loaded
        kind, origin = made[name]
        yield path, f"needs a {' or '.join(kinds)} artifact, but {origin} makes {name!r} of kind {kind}"


def path_faults(raw: dict[str, Any]) -> Iterator[Fault]:
    """Unknown placeholders, {prepared} without a prepare command, and inputs that are not there."""
    for path, marker, text in path_values(raw):
        unknown = [name for name in PLACEHOLDER.findall(text) if name not in PLACEHOLDERS]
        for name in unknown:
            yield path, f"unknown placeholder {{{name}}}" + suggestion(name, PLACEHOLDERS)
        if "{prepared}" in text and raw.get("prepare") is None:
            yield path, "{prepared} is used, but no prepare command makes it"
        if not unknown and marker.kind != "output" and not PLACEHOLDER.search(text):
            yield from _missing_input(path, marker, text)


def input_faults(raw: dict[str, Any]) -> Iterator[Fault]:
    """Inputs that are not there, of a recipe whose placeholders are replaced."""
    for path, marker, text in path_values(raw):
        if marker.kind != "output":
            yield from _missing_input(path, marker, text)


def _missing_input(path: Place, marker: IsPath, text: str) -> Iterator[Fault]:
    place = Path(text)
    if marker.kind == "file" and not place.is_file():
        yield path, f"no such file: {place.absolute()}"
    elif marker.kind == "directory" and not (place / "config.json").is_file():
        what = "holds no config.json, so it is no model" if place.is_dir() else "no such directory"
        hub = f"; on the hub it is {HUB}{text}" if HUB_NAME.fullmatch(text) else ""
        yield path, f"{what}: {place.absolute()}{hub}"


def expanded(raw: dict[str, Any], values: dict[str, str]) -> dict[str, Any]:
    """A copy in which the placeholders of paths and of the prepare command have their values.

    With values {"prepared": "/runs/a/prepared"}, "{prepared}/model" becomes "/runs/a/prepared/model".
    """
    copy = _copied(raw)
    for path, _, text in path_values(raw):
        _put(copy, path, PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), text))
    return copy


def path_values(raw: dict[str, Any]) -> Iterator[tuple[Place, IsPath, str]]:
    """Every path of the recipe, and every word of its prepare command (as an output: it need not exist)."""
    command = _mapping(raw.get("prepare")).get("command")
    for index, word in enumerate(_texts(command)):
        yield ("prepare", "command", index), IsPath("output"), word
    for name, place in _mapping(raw.get("models")).items():
        if isinstance(place, str):
            kind: Literal["name", "directory"] = "name" if place.startswith(HUB) else "directory"
            yield ("models", name), IsPath(kind), place
    constitution = _mapping(_mapping(raw.get("services")).get("judge")).get("constitution")
    if isinstance(constitution, str):
        yield ("services", "judge", "constitution"), IsPath("file"), constitution
    yield from marked_values(raw, (IsPath,))


def marked_values(raw: dict[str, Any], markers: tuple[type, ...]) -> Iterator[tuple[Place, Any, str]]:
    """(path, mark, text) of each marked field of each stage, in the stages' order; needs before makes."""
    for stage_name, stage in _mapping(raw.get("stages")).items():
        model = STAGE_KINDS.get(str(_mapping(stage).get("kind")))
        found = list(_marked_in(stage, model, markers, ("stages", stage_name))) if model else []
        yield from sorted(found, key=lambda entry: isinstance(entry[1], Makes))


def _marked_in(
    record: Any, model: Any, markers: tuple[type, ...], path: Place
) -> Iterator[tuple[Place, Any, str]]:
    for name, field in model.model_fields.items():
        value = _mapping(record).get(name, None if field.is_required() else field.default)
        nested = _record_in(field.annotation, value)
        for marker in _markers(field):
            if not isinstance(marker, markers):
                continue
            if isinstance(value, str):
                yield (*path, name), marker, value
            for key, text in _mapping(value).items():
                if isinstance(text, str) and nested is None:
                    yield (*path, name, key), marker, text
        if nested is not None and isinstance(value, dict):
            yield from _marked_in(value, nested, markers, (*path, name))


def _record_in(annotation: Any, value: Any) -> Any:
    """The settings that a field holds, or may hold beside a text or null; None where it holds none.

    Of several kinds of settings, those of the value's own kind.
    """
    options = list(_records_in(annotation))
    kind = _mapping(value).get("kind")
    of_kind = (each for each in options if kind is not None and kind in _kinds_of(each))
    return next(of_kind, options[0] if options else None)


def _records_in(annotation: Any) -> Iterator[Any]:
    if hasattr(annotation, "model_fields"):
        yield annotation
    elif not isinstance(annotation, types.GenericAlias):
        for option in getattr(annotation, "__args__", ()):
            yield from _records_in(option)


def _kinds_of(settings: Any) -> tuple[Any, ...]:
    field = settings.model_fields.get("kind")
    return getattr(field.annotation, "__args__", ()) if field else ()


def _markers(field: Any) -> list[Any]:
    """The marks of a field, of its `X | None` option, and of the values of a mapping."""
    found, pending = list(field.metadata), [field.annotation]
    while pending:
        annotation = pending.pop()
        found += getattr(annotation, "__metadata__", ())
        pending += [part for part in getattr(annotation, "__args__", ()) if not isinstance(part, str)]
    return found


def _mapping(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _texts(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _put(target: Any, path: Place, value: str) -> None:
    for part in path[:-1]:
        target = target[part]
    target[path[-1]] = value
