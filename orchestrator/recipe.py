"""A recipe: everything a run is told, in one YAML file, checked as a whole before anything starts.

    path = Path("recipes/helpdesk-ppo.yaml")
    recipe = load_recipe(path, ["stages.ppo.rounds=10"], seed=1, run_dir=Path("runs/a"))
    recipe.stages["ppo"].rounds          10
    recipe.stages["ppo"].prompts         "/.../runs/a/prepared/prompts.jsonl"

Relative paths are taken from the working directory.
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from orchestrator.recipe_faults import RecipeError, dotted, schema_faults, suggestion
from orchestrator.recipe_graph import Fault, expanded, graph_faults, input_faults, path_faults
from orchestrator.recipe_principles import principle_faults
from orchestrator.recipe_retention import Retention
from orchestrator.recipe_scorers import with_members
from orchestrator.recipe_settings import ModelPlace, Name, Services, Settings, Supervision
from orchestrator.recipe_stages import Stage
from orchestrator.recipe_yaml import Document, read_scalar, read_yaml
from orchestrator.refreshes import refreshes_of, repeated_stages

__all__ = ["Recipe", "RecipeError", "load_recipe"]

OVERRIDDEN = 0  # stands for the line of a value that came from the command line


class Prepare(Settings):
    """What makes the data and the starting model, once, before the first stage."""

    command: Annotated[list[str], Field(min_length=1)]
    """The command, run without a shell; its first word "python" means this interpreter."""


class Recipe(Settings):
    """All settings of a run."""

    name: Name
    """Names the run: it lies in runs/<name> unless told otherwise."""
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    """Every draw of the run derives from it."""
    prepare: Prepare | None = None
    """Run once; what it writes to {prepared} is the run's own."""
    models: dict[Name, ModelPlace] = {}
    """Models to start from, by the name that stages use: Hugging Face directories, or hub names as
    hf://OWNER/NAME@REVISION, which the services fetch."""
    services: Services = Services()
    """The services and what they host."""
    retention: Retention = Retention()
    """How much of the run stays on disk."""
    supervision: Supervision = Supervision()
    """How long the run waits for what is down, stuck or full."""
    stages: Annotated[dict[Name, Stage], Field(min_length=1)]
    """What is done, in order, by name."""

    @model_validator(mode="after")
    def _judge_where_one_is_needed(self) -> "Recipe":
        if "judge" in self.needed_services and not self.services.judge.is_whole:
            raise ValueError(
                "services.judge: a stage asks the judge; give addresses, or a constitution and a model or "
                "an endpoint"
            )
        made = set(self.models)
        for name, stage in self.stages.items():
            for model in self.services.judge.judges if "judge" in stage.services else ():
                if model not in made:
                    raise ValueError(f"services.judge: stages.{name} asks the judge before {model!r} is made")
            made.add(getattr(stage, "output", ""))
        return self

    @model_validator(mode="after")
    def _refreshes_repeat_reward_stages(self) -> "Recipe":
        earlier: dict[str, Any] = {}
        for name, stage in self.stages.items():
            refresh = getattr(stage, "refresh", None)
            if refresh is not None and not repeated_stages(earlier, refresh.reward):
                known = [each for each, before in earlier.items() if before.kind == "reward"]
                raise ValueError(
                    f"stages.{name}.refresh.reward: no earlier reward stage {refresh.reward!r}"
                    f"{suggestion(refresh.reward, known)}"
                )
            within = {each for one in refreshes_of(self, name) for each in one.stages}
            taken = sorted(within.intersection(self.stages))
            if taken:
                raise ValueError(f"stages.{taken[0]}: a refresh of {name} has this name")
            earlier[name] = stage
        return self

    _declared: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def declared(self) -> dict[str, Any]:
        """With overrides and defaults, placeholders as written; as JSON it loads to the same recipe."""
        return self._declared

    @property
    def sha256(self) -> str:
        """Digest of what decides the result: not where it lies, who serves it, what stays, or patience."""
        kept = json.loads(json.dumps(self._declared))
        for name in ("retention", "supervision"):
            kept.pop(name)
        kept["stages"] = list(kept["stages"].items())  # their order counts; that of other keys does not
        for service in kept["services"].values():
            service.pop("addresses", None)
            service.pop("replicas", None)
        canonical = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def needed_services(self) -> frozenset[str]:
        """Which services the stages call."""
        return frozenset().union(*(stage.services for stage in self.stages.values()))

    def require_inputs(self) -> None:
        """Raises RecipeError that lists every input missing once the prepare command has run."""
        resolved = self.model_dump(mode="json")
        faults = [*input_faults(resolved), *principle_faults(resolved)]
        if faults:
            raise RecipeError(self.name, _written(faults, Document()))


def load_recipe(
    path: Path, overrides: Sequence[str] = (), seed: int | None = None, run_dir: Path | None = None
) -> Recipe:
    """The recipe in `path`, with overrides such as "stages.ppo.rounds=10" and placeholders replaced.

    Without `run_dir`, {prepared} and {run} stay as written. Raises RecipeError with every fault.
    """
    document = _read(path)
    faults = [*document.faults, *_override(document, overrides)]
    raw = document.value if isinstance(document.value, dict) else {}
    if not isinstance(document.value, dict) and not faults:
        faults = ["a recipe is a mapping of name, services, stages; found " + type(document.value).__name__]
    if faults and not raw:
        raise RecipeError(str(path), faults)
    if seed is not None:
        raw["seed"] = seed
    _expand_members(raw, document)
    declared, found = _parse(raw)
    faults += _written(found, document)
    if faults or declared is None:
        raise RecipeError(str(path), faults)
    return _resolved(declared, run_dir)


def declared_recipe(declared: dict[str, Any], run_dir: Path) -> Recipe:
    """The recipe that a ledger keeps as `Recipe.declared` gave it."""
    return _resolved(Recipe.model_validate(declared), run_dir)


def _read(path: Path) -> Document:
    try:
        return read_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(str(path), [f"cannot be read: {error.strerror or error}"]) from None
    except UnicodeDecodeError as error:
        raise RecipeError(str(path), [f"is not UTF-8 text: {error.reason} at byte {error.start}"]) from None


def _override(document: Document, overrides: Iterable[str]) -> list[str]:
    """Puts each "dotted.path=value" in its place; returns what is wrong with them."""
    faults = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not all(key.split(".")):
            faults.append(f"override {override!r}: must be dotted.path=value")
            continue
        try:
            _place(document.value, key.split("."), read_scalar(text))
            document.lines[tuple(key.split("."))] = OVERRIDDEN
        except ValueError as error:
            faults.append(f"override {override!r}: {error}")
    return faults


def _expand_members(raw: dict[str, Any], document: Document) -> None:
    """Puts the stages of an ensemble's members in the place of the one that asks for them; lines go along."""
    stages = raw.get("stages")
    if not isinstance(stages, dict):
        return
    raw["stages"], became = with_members(stages)
    for path, line in list(document.lines.items()):
        for name in became.get(str(path[1]), []) if len(path) > 1 and path[0] == "stages" else []:
            place = ("stages", name, *path[2:])
            document.lines[place] = line


def _place(target: Any, parts: list[str], value: Any) -> None:
    for index, part in enumerate(parts[:-1]):
        if not isinstance(target, dict):
            raise ValueError(f"{'.'.join(parts[:index])} is no mapping")
        target = target.setdefault(part, {})
    if not isinstance(target, dict):
        raise ValueError(f"{'.'.join(parts[:-1])} is no mapping")
    target[parts[-1]] = value


def _parse(raw: dict[str, Any]) -> tuple[Recipe | None, list[Fault]]:
    found: list[Fault] = []
    recipe = None
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        found += schema_faults(error, Recipe)
    found += [*graph_faults(raw), *path_faults(raw), *principle_faults(raw)]
    return recipe, found


def _written(found: Iterable[Fault], document: Document) -> list[str]:
    """`path: message (line n)` of each fault, in the order of the lines."""
    placed = [(_line(path, document), path, message) for path, message in dict.fromkeys(found)]
    placed.sort(key=lambda fault: fault[0] or 0)
    origin = {None: "", OVERRIDDEN: " (override)"}
    return [
        f"{dotted(path)}: {message}{origin.get(line, f' (line {line})')}" for line, path, message in placed
    ]


def _line(path: tuple[str | int, ...], document: Document) -> int | None:
    """Where the path is, or the nearest thing around it that is written down."""
    prefixes = (path[:length] for length in range(len(path), 0, -1))
    return next((document.lines[prefix] for prefix in prefixes if prefix in document.lines), None)


def _resolved(declared: Recipe, run_dir: Path | None) -> Recipe:
    raw = declared.model_dump(mode="json")
    values = {"seed": str(declared.seed)}
    if run_dir is not None:
        run = run_dir.absolute()
        values |= {"run": str(run), "prepared": str(run / "prepared")}
    resolved = expanded(raw, values)
    if resolved["prepare"] and resolved["prepare"]["command"][0] == "python":
        resolved["prepare"]["command"][0] = sys.executable
    recipe = Recipe.model_validate(resolved)
    recipe._declared = raw
    return recipe
