"""Checks that the principles and tags of a recipe are in its constitution, before a stage costs anything."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from orchestrator.recipe_faults import suggestion
from orchestrator.recipe_graph import PLACEHOLDER, Fault, Place

ASK_BY_PRINCIPLE = ("judge", "revise")  # kinds of label and of stage


def principle_faults(raw: dict[str, Any]) -> Iterator[Fault]:
    """Names that the constitution does not have, and stages that it has no principle for.

    None where it is elsewhere, not written yet, or in no shape of ours: the judge, who reads it, says what is
    wrong with the file.
    """
    services = raw.get("services")
    judge = services.get("judge") if isinstance(services, dict) else None
    place = judge.get("constitution") if isinstance(judge, dict) else None
    if not isinstance(place, str) or PLACEHOLDER.search(place) or not Path(place).is_file():
        return
    principles = _principles(Path(place))
    if not principles:
        return
    known = {
        "principles": [str(each.get("name")) for each in principles],
        "tags": sorted({str(tag) for each in principles for tag in _tags(each)}),
    }
    for path, field, name in _asked(raw.get("stages"), ("stages",)):
        if name not in known[field]:
            what = field.removesuffix("s")
            yield path, f"the constitution has no {what} {name!r}{suggestion(name, known[field])}"
    yield from _without_principle(raw.get("stages"), principles)


def _principles(path: Path) -> list[dict[str, Any]]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):  # PyYAML lets a date's ValueError through
        return []
    found = content.get("principles") if isinstance(content, dict) else None
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _tags(principle: dict[str, Any]) -> list[Any]:
    tags = principle.get("tags")
    return tags if isinstance(tags, list) else []


def _without_principle(stages: Any, principles: list[dict[str, Any]]) -> Iterator[Fault]:
    """Stages that revise, where no principle which they take has the texts that they write by."""
    for name, stage in stages.items() if isinstance(stages, dict) else ():
        if not isinstance(stage, dict) or stage.get("kind") != "revise":
            continue
        texts = ("revision",) if stage.get("critique") is False else ("critique", "revision")
        given = (stage.get(field) for field in ("principles", "tags"))
        names, tags = (each if isinstance(each, list) else [] for each in given)
        if not any(
            (not names or each.get("name") in names)
            and (not tags or any(str(tag) in tags for tag in _tags(each)))
            and all(each.get(text) for text in texts)
            for each in principles
        ):
            needed = " and ".join(texts)
            yield ("stages", name), f"no principle of the constitution that it takes has a {needed}"


def _asked(record: Any, path: Place) -> Iterator[tuple[Place, str, str]]:
    """(path, field, name) of each principle and tag that something which asks by principle names."""
    if not isinstance(record, dict):
        return
    if record.get("kind") in ASK_BY_PRINCIPLE:
        for field in ("principles", "tags"):
            names = record.get(field)
            for index, name in enumerate(names if isinstance(names, list) else ()):
                if isinstance(name, str):
                    yield (*path, field, index), field, name
    for key, value in record.items():
        yield from _asked(value, (*path, key))
