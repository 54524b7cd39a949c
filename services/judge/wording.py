"""How a judge is asked: templates with {placeholders}, part of the constitution and of its hash.

A constitution may word any of them anew under `wording:`; a judge that knows a few hundred words needs that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from services.judge.answers import bare
from services.judge.records import Prompt

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_PAIR = ("conversation", "principle", "first", "second")
_RESPONSE = ("conversation", "principle", "response")

# The placeholders of each template: all of them, and no other.
PLACEHOLDERS: dict[str, tuple[str, ...]] = {
    "compare": _PAIR,
    "reason": _PAIR,
    "compare_reasoned": (*_PAIR, "reasoning"),
    "score": _RESPONSE,
    "critique": _RESPONSE,
    "revise": (*_RESPONSE, "critique"),
    "revise_directly": _RESPONSE,
}
ROLES = ("system", "user", "assistant")

_CASE = "Consider the following conversation between a person and an assistant:\n\n{conversation}\n\n"
_OPTIONS = _CASE + "{principle}\n\n(A) {first}\n\n(B) {second}\n\n"
_ANSWER = "Answer with A or B alone, without any other word."
_EXCHANGE = _CASE + "The assistant's response:\n\n{response}\n\n"


@dataclass(frozen=True)
class Wording:
    """Templates, what they call the roles, and the options they offer."""

    compare: str = _OPTIONS + _ANSWER
    reason: str = _OPTIONS + "Let's think step by step. Give the reasons alone, without the answer yet."
    compare_reasoned: str = _OPTIONS + "Reasons:\n\n{reasoning}\n\n" + _ANSWER
    score: str = (
        _EXCHANGE + "{principle}\n\nBy this standard, how good is the response, from 1 (worst) to 10 (best)? "
        "Answer with the number alone."
    )
    critique: str = _EXCHANGE + "{principle}"
    revise: str = _EXCHANGE + "A critique of it:\n\n{critique}\n\n{principle}\n\nGive the new response alone."
    revise_directly: str = _EXCHANGE + "{principle}\n\nGive the new response alone."
    options: tuple[str, str] = ("A", "B")
    levels: tuple[str, ...] = ("1", "2", "3", "4", "5", "6", "7", "8", "9", "10")
    system: str = "System: "
    user: str = "Human: "
    assistant: str = "Assistant: "
    between_turns: str = "\n\n"

    def conversation(self, prompt: Prompt) -> str:
        """A prompt as the templates quote it: text as it stands, messages turn by turn."""
        if isinstance(prompt, str):
            return prompt
        return self.between_turns.join(getattr(self, turn["role"]) + turn["content"] for turn in prompt)


def fill(template: str, **values: str) -> str:
    """The template with its placeholders replaced in one pass: braces inside the values stay as they are."""
    return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), template)


def wording_from(given: object) -> tuple[Wording, list[str]]:
    """The wording of a constitution's `wording:` section, and every fault in it."""
    if not isinstance(given, dict):
        return Wording(), [f"wording: must be a mapping, not {given!r:.80}"]
    known = {field.name for field in fields(Wording)}
    faults = [
        f"wording.{key}: no such wording; one of {', '.join(sorted(known))}"
        for key in given
        if key not in known
    ]
    values: dict[str, object] = {}
    for key in sorted(known & given.keys()):
        value, fault = _lists(key, given[key]) if key in ("options", "levels") else _text(key, given[key])
        values[key] = value
        faults += [f"wording.{key}: {fault}"] if fault else []
    return (Wording() if faults else Wording(**values)), faults  # type: ignore[arg-type]


def _text(key: str, value: object) -> tuple[object, str]:
    if not isinstance(value, str):
        return value, f"must be text, not {value!r:.80}"
    if key not in PLACEHOLDERS:
        return value, ""
    found, wanted = set(_PLACEHOLDER.findall(value)), set(PLACEHOLDERS[key])
    lacks, unknown = sorted(wanted - found), sorted(found - wanted)
    return value, "; ".join(
        [*(f"lacks {{{name}}}" for name in lacks), *(f"{{{name}}} is no placeholder" for name in unknown)]
    )


def _lists(key: str, value: object) -> tuple[object, str]:
    count = {"options": 2, "levels": 10}[key]
    good = isinstance(value, list) and len(value) == count and all(isinstance(each, str) for each in value)
    if not good or len({bare(each) for each in value} - {""}) != count:  # type: ignore[attr-defined]
        return value, f"must be {count} texts in quotes that differ in more than marks, not {value!r:.80}"
    return tuple(value), ""  # type: ignore[arg-type]
