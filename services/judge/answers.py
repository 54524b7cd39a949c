"""Reads what an endpoint's judge wrote: an option from its text, or log-probs of options from its tokens."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

# What may stand around an option: "(A)", "**A**", "[[A]]", "A.", "7/10".
_AROUND = " \t\r\n()[]{}*_\"'`.:#"
_SAYS = re.compile(r"(?:answer|verdict|choice|score|rating)(?:\s+is)?\s*[:=]?\s*[(\[{*_\"'`]*", re.IGNORECASE)
# A first token of "1" may go on to be "10"; with less probability than this on it that changes nothing.
_AMBIGUOUS_MASS = 0.05


def parse_option(text: str, options: Sequence[str]) -> int | None:
    """The index of the option that a text names, or None where it names none, or several.

        "B" "(B)" "**B**." "B, because A is rude" -> None for the last; "The answer is (B)." -> 1

    A text is the option alone, but for marks around it, or says "answer", "verdict", "choice", "score" or
    "rating" before it; where it says so more than once it has to say the same.
    """
    bare = text.strip(_AROUND)
    if bare.endswith("/10") and len(options) == 10:
        bare = bare.removesuffix("/10").strip(_AROUND)
    if bare in options:
        return list(options).index(bare)
    alternatives = "|".join(re.escape(option) for option in sorted(options, key=len, reverse=True))
    said = re.findall(rf"{_SAYS.pattern}({alternatives})(?![\w.]*\w)", text, re.IGNORECASE)
    exact = {option for option in said if option in options}
    return list(options).index(exact.pop()) if len(exact) == 1 and len(set(said)) == 1 else None


def logprobs_of(content: Any, options: Sequence[str]) -> tuple[float, ...] | None:
    """Log-prob of each option from `choices[0].logprobs.content` of a chat completion.

    Read where the answer begins: at the first token that is more than marks and blanks. None where the
    endpoint gave no alternatives, and where they do not tell the options apart (a "1" that may become "10").
    """
    places = _places(content)
    start = next((index for index, (token, _) in enumerate(places) if token.strip(_AROUND)), None)
    if start is None or len(places[start][1]) < 2:
        return None
    token, alternatives = places[start]
    masses = _masses(alternatives)
    found = {option: masses.get(option, 0.0) for option in options}
    for longer in options:
        short = longer[:-1]
        if short not in found or longer in masses or found[short] <= _AMBIGUOUS_MASS:
            continue
        if token.strip(_AROUND) != short:
            return None  # another token was taken: nothing tells what would have followed this one
        follows = places[start + 1][1] if start + 1 < len(places) else []
        goes_on = min(1.0, _masses(follows).get(longer[-1], 0.0))
        found[longer], found[short] = found[short] * goes_on, found[short] * (1 - goes_on)
    return tuple(math.log(mass) if mass > 0 else -math.inf for mass in found.values())


def _places(content: Any) -> list[tuple[str, list[tuple[str, float]]]]:
    """(token, its alternatives with their log-probs) per place; [] for whatever has another shape."""
    places = []
    for place in content if isinstance(content, list) else []:
        if not isinstance(place, Mapping) or not isinstance(place.get("token"), str):
            return []
        pairs = [
            (each["token"], float(each["logprob"]))
            for each in place.get("top_logprobs") or []
            if isinstance(each, Mapping)
            and isinstance(each.get("token"), str)
            and isinstance(each.get("logprob"), (int, float))
            and not math.isnan(each["logprob"])
        ]
        places.append((place["token"], pairs))
    return places


def _masses(alternatives: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Probability by bare text: "A", " A" and "(A" are one answer."""
    masses: dict[str, float] = {}
    for token, logprob in alternatives:
        bare = token.strip(_AROUND)
        if bare:
            masses[bare] = masses.get(bare, 0.0) + math.exp(min(logprob, 0.0))
    return masses
