"""Which two models are compared: versions of a run, Hugging Face directories or hub names."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.artifacts import place_of
from orchestrator.data import file_sha256
from orchestrator.ledger import Ledger
from orchestrator.recipe import Recipe
from orchestrator.recipe_settings import HUB


class EvaluationError(ValueError):
    """An evaluation cannot be begun as it was asked for."""


@dataclass(frozen=True)
class Subject:
    """A model: what it is called here, and where it lies."""

    name: str
    place: str


@dataclass(frozen=True)
class Origin:
    """The run whose versions may be named."""

    ledger: Ledger
    recipe: Recipe
    directory: Path

    def place(self, asked: str) -> str | None:
        """Where a version lies, or lay; None for a model that the run does not know. EvaluationError for a
        number."""
        model, at, number = asked.partition("@")
        rows = [row for row in self.ledger.all_versions() if row["model"] == model]
        if not at and not rows:
            return self.recipe.models.get(model)
        if not rows:
            return None
        numbers = [row["number"] for row in rows]
        found = [row for row in rows if not at or str(row["number"]) == number]
        if not found:
            raise EvaluationError(
                f"run {self.ledger.run} has no version {asked}: {model} has {numbers[0]} to {numbers[-1]}"
            )
        return str(place_of(found[-1]))

    def version_at(self, place: str) -> dict[str, Any] | None:
        """The row of the version that lies, or lay, at a place; None where that is no version of the run."""
        rows = self.ledger.all_versions()
        return next((row for row in rows if str(place_of(row)) == place), None)

    def files_of(self, place: str) -> Path:
        """Where a version's files are: in its place, or where an evaluation of the run holds them."""
        version = Path(place)
        held = self.directory.glob(f"evaluations/*/models/{version.parent.name}/{version.name}")
        return version if version.is_dir() else next(held, version)

    def newest(self, asked: str) -> str:
        """policy is policy@40; another name is itself."""
        row = None if "@" in asked else self.ledger.latest_version(asked)
        return asked if row is None else f"{asked}@{row['number']}"

    @property
    def models(self) -> list[str]:
        """What may be named."""
        return sorted({row["model"] for row in self.ledger.all_versions()} | set(self.recipe.models))


def subject(asked: str, origin: Origin | None) -> Subject:
    """The model that a person named. Raises EvaluationError with what could have been named."""
    if asked.startswith(HUB):
        return Subject(as_name(asked.removeprefix(HUB)), asked)
    place = origin.place(asked) if origin is not None else None
    if place is not None and origin is not None:
        return Subject(as_name(origin.newest(asked)), place)
    directory = Path(asked)
    if (directory / "config.json").is_file():
        return Subject(as_name(directory.resolve().name), str(directory.resolve()))
    known = f"a model of run {origin.ledger.run} ({', '.join(origin.models)}), " if origin else ""
    raise EvaluationError(f"{asked!r} is neither {known}a directory with a config.json nor {HUB}OWNER/NAME")


def two_subjects(before: str, after: str, origin: Origin | None) -> tuple[Subject, Subject]:
    """Both models, under names that differ. EvaluationError where they are one and the same."""
    first, second = subject(before, origin), subject(after, origin)
    if first.place == second.place or same_weights(Path(first.place), Path(second.place)):
        raise EvaluationError(f"{before} and {after} are the same model: there is nothing to compare")
    if first.name == second.name:
        return Subject(f"{first.name}-before", first.place), Subject(f"{second.name}-after", second.place)
    return first, second


def joined(models: dict[str, str], found: Subject) -> str:
    """A model's name among `models`, which it joins: its own, or with a number where another has that."""
    known = next((name for name, place in models.items() if place == found.place), None)
    if known is not None:
        return known
    name, number = found.name, 2
    while name in models:
        name, number = f"{found.name}-{number}", number + 1
    models[name] = found.place
    return name


def same_tokenizer(first: str | Path, second: str | Path) -> bool:
    """False where two directories have tokenizers that differ: one's tokens mean nothing to the other."""
    files = [Path(place) / "tokenizer.json" for place in (first, second)]
    return not all(path.is_file() for path in files) or file_sha256(files[0]) == file_sha256(files[1])


def same_weights(first: Path, second: Path) -> bool:
    """True where two directories hold the same weight files, byte for byte. Sizes are looked at first."""
    files = [
        {path.name: path for path in sorted(place.glob("*.safetensors"))} if place.is_dir() else {}
        for place in (first, second)
    ]
    sizes = [{name: path.stat().st_size for name, path in each.items()} for each in files]
    if not files[0] or sizes[0] != sizes[1]:
        return False
    return all(file_sha256(path) == file_sha256(files[1][name]) for name, path in files[0].items())


def as_name(text: str) -> str:
    """policy@40 is policy-40, Qwen2.5-0.5B is qwen2-5-0-5b: a name that a recipe takes."""
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")[:50] or "model"
