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


def bare(text: str) -> str:
    """The text without marks and blanks around it, as answers and options are compared: "(A)" is "A"."""
    return text.strip(_AROUND)


def parse_option(text: str, options: Sequence[str]) -> int | None:
    """The index of the option that a text names, or None where it names none, or several.

        "B" "(B)" "**B**." "B, because A is rude" -> None for the last; "The answer is (B)." -> 1

    A text is the option alone, but for marks around either, or says "answer", "verdict", "choice", "score" or
    "rating" before it; where it says so more than once it has to say the same.
    """
    whole, names = bare(text), [bare(option) for option in options]
    if whole.endswith("/10") and len(names) == 10:
        whole = bare(whole.removesuffix("/10"))
    if whole in names:
        return names.index(whole)
    alternatives = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    said = re.findall(rf"{_SAYS.pattern}({alternatives})(?![\w.]*\w)", text, re.IGNORECASE)
    exact = {name for name in said if name in names}
    return names.index(exact.pop()) if len(exact) == 1 and len(set(said)) == 1 else None


def logprobs_of(content: Any, options: Sequence[str], named: int | None) -> tuple[float, ...] | None:
    """Log-prob of each option from `choices[0].logprobs.content` of a chat completion.

    Read at the token that gives the option which the text names, and where there is none at the first token
    that is more than marks and blanks. None where the endpoint gave no alternatives, where none of them is
    an option, and where they do not tell the options apart (a "1" that may become "10").
    """
    places, names = _places(content), [bare(option) for option in options]
    tokens = [bare(token) for token, _ in places]
    said = [index for index, token in enumerate(tokens) if named is not None and token == names[named]]
    start = said[-1] if said else next((index for index, token in enumerate(tokens) if token), None)
    if start is None or len(places[start][1]) < 2:
        return None
    alternatives = places[start][1]
    masses = _masses(alternatives)
    found = {name: masses.get(name, 0.0) for name in names}
    for longer in names:
        short = longer[:-1]
        if short not in found or longer in masses or found[short] <= _AMBIGUOUS_MASS:
            continue
        if tokens[start] != short:
            return None  # another token was taken: nothing tells what would have followed this one
        follows = places[start + 1][1] if start + 1 < len(places) else []
        goes_on = min(1.0, _masses(follows).get(longer[-1], 0.0))
        found[longer], found[short] = found[short] * goes_on, found[short] * (1 - goes_on)
    if not any(found.values()):
        return None
    return tuple(math.log(mass) if mass > 0 else -math.inf for mass in found.values())


def _places(content: Any) -> list[tuple[str, list[tuple[str, float]]]]:
    """(token, its alternatives with their log-probs) per place; [] for whatever has another shape."""
    places = []
    for place in content if isinstance(content, list) else []:
        if not isinstance(place, Mapping) or not isinstance(place.get("token"), str):
            return []
        tops = place.get("top_logprobs")
        alternatives = [_alternative(each) for each in tops] if isinstance(tops, list) else []
        places.append((place["token"], [pair for pair in alternatives if pair is not None]))
    return places


def _alternative(each: Any) -> tuple[str, float] | None:
    token, logprob = (each.get("token"), each.get("logprob")) if isinstance(each, Mapping) else (None, None)
    if not isinstance(token, str) or not isinstance(logprob, (int, float)):
        return None
    # An impossible log-prob (above 0, NaN) is none: 1e-6 forgives rounding.
    return (token, min(float(logprob), 0.0)) if logprob <= 1e-6 and logprob > -1e300 else None


def _masses(alternatives: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Probability by bare text: "A", " A" and "(A" are one answer."""
    masses: dict[str, float] = {}
    for token, logprob in alternatives:
        name = bare(token)
        if name:
            masses[name] = masses.get(name, 0.0) + math.exp(logprob)
    return masses
