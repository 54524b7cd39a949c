"""The constitution: named principles in a YAML file, read strictly, versioned by the hash of its content.

    name: helpdesk
    principles:
      - name: honest
        compare: Which of these responses is more honest?
        score: Does the response say what is true, and say so where it does not know?    # else `compare`
        critique: Say in which ways the response misleads.
        revision: Write the response anew, so that it misleads in none of them.
        weight: 2            # drawn twice as often as a principle of weight 1, the default
        tags: [honesty]
    wording: {...}           # optional: see wording.py

A principle has at least one of the four texts; an rpc draws from those that have the text it needs.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from services.judge.wording import Wording, wording_from

TEXTS = ("compare", "score", "critique", "revision")
_PRINCIPLE_KEYS = ("name", *TEXTS, "weight", "tags")
_KEYS = ("name", "principles", "wording")


class ConstitutionError(ValueError):
    """A constitution that cannot be used; holds every fault."""

    def __init__(self, faults: list[str], source: str = "") -> None:
        self.faults = faults
        where = f"{source}: " if source else ""
        super().__init__(f"{where}{len(faults)} fault(s): " + "; ".join(faults))


@dataclass(frozen=True)
class Principle:
    """Principle("honest", compare="Which of these responses is more honest?"); a text it lacks is ""."""

    name: str
    compare: str = ""
    score: str = ""
    critique: str = ""
    revision: str = ""
    weight: float = 1.0
    tags: tuple[str, ...] = ()

    def text(self, purpose: str) -> str:
        """What it says for one of TEXTS; a score may quote what compares."""
        text: str = getattr(self, purpose)
        return text or (self.compare if purpose == "score" else "")


@dataclass(frozen=True)
class Constitution:
    """What a judge goes by."""

    name: str
    principles: tuple[Principle, ...]
    wording: Wording = field(default_factory=Wording)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 (hex) of the content: whatever changes a question changes it, a comment does not."""
        content = json.dumps(asdict(self), sort_keys=True, ensure_ascii=False, allow_nan=False)
        return hashlib.sha256(content.encode()).hexdigest()


def read_constitution(path: Path) -> Constitution:
    """The constitution in a file. Raises ConstitutionError with every fault at once."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConstitutionError([f"cannot be read ({error})"], str(path)) from None
    try:
        return parse_constitution(text)
    except ConstitutionError as error:
        raise ConstitutionError(error.faults, str(path)) from None


def parse_constitution(text: str) -> Constitution:
    """The constitution in a YAML text. Raises ConstitutionError with every fault at once."""
    content, faults = _load(text)
    if not isinstance(content, dict):
        raise ConstitutionError(faults or [f"must be a mapping of name and principles, not {content!r:.80}"])
    faults += [f"{key}: no such key; one of {', '.join(_KEYS)}" for key in content if key not in _KEYS]
    faults += _text_faults(content, "name", "name")
    principles = _principles(content.get("principles"), faults)
    wording = Wording()
    if "wording" in content:
        wording, wrong = wording_from(content["wording"])
        faults += wrong
    if faults:
        raise ConstitutionError(faults)
    return Constitution(content["name"], principles, wording)


class _Loader(yaml.SafeLoader):
    """Remembers keys that stand twice in one mapping: plain YAML keeps the last in silence.

    Refuses half a character, such as the escape "\\ud83d": no hash and no message could hold it.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.faults: list[str] = []

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        value = super().construct_scalar(node)
        if any("\ud800" <= character <= "\udfff" for character in value):
            problem = 'half a character (one escape says a whole one: "\\U0001F600")'
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                self.faults.append(f"line {key.start_mark.line + 1}: key {key.value!r} stands twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def _load(text: str) -> tuple[Any, list[str]]:
    try:
        loader = _Loader(text)  # refuses control characters already here
        return loader.get_single_data(), loader.faults
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return None, [f"is not YAML ({' '.join(str(error).split())[:300]})"]


def _principles(given: Any, faults: list[str]) -> tuple[Principle, ...]:
    if not isinstance(given, list) or not given:
        faults.append("principles: must be a list of at least one principle")
        return ()
    places: dict[str, int] = {}
    for index, principle in enumerate(given):
        where = f"principles[{index}]"
        if not isinstance(principle, dict):
            faults.append(f"{where}: must be a mapping, not {principle!r:.80}")
            continue
        faults += _principle_faults(principle, where)
        name = principle.get("name")
        if isinstance(name, str) and name in places:
            faults.append(f"{where}.name: {name!r} is the name of principles[{places[name]}] too")
        elif isinstance(name, str):
            places[name] = index
    return () if faults else tuple(_principle(principle) for principle in given)


def _principle(given: dict[str, Any]) -> Principle:
    weight, tags = float(given.get("weight", 1.0)), tuple(given.get("tags", ()))
    return Principle(**{**given, "weight": weight, "tags": tags})


def _principle_faults(given: dict[Any, Any], where: str) -> list[str]:
    faults = [
        f"{where}.{key}: no such key; one of {', '.join(_PRINCIPLE_KEYS)}"
        for key in given
        if key not in _PRINCIPLE_KEYS
    ]
    faults += _text_faults(given, "name", f"{where}.name")
    for key in TEXTS:
        if key in given:
            faults += _text_faults(given, key, f"{where}.{key}")
    if not any(key in given for key in TEXTS):
        faults.append(f"{where}: needs at least one of {', '.join(TEXTS)}")
    weight, tags = given.get("weight", 1.0), given.get("tags", [])
    number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    if not (number and 0 < weight < math.inf):
        faults.append(f"{where}.weight: must be a number above 0, not {weight!r:.80}")
    if not isinstance(tags, list) or not all(isinstance(tag, str) and tag.strip() for tag in tags):
        faults.append(f"{where}.tags: must be a list of words, not {tags!r:.80}")
    return faults


def _text_faults(given: dict[Any, Any], key: str, where: str) -> list[str]:
    if key not in given:
        return [f"{where}: missing"]
    value = given[key]
    good = isinstance(value, str) and value.strip()
    return [] if good else [f"{where}: must be text, not {value!r:.80}"]
