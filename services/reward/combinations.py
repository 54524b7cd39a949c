"""How scorers are combined, written as one word: what a person types is what the service shows.

mean:reward-1,reward-2                        an ensemble
min:reward-1,reward-2
mean_minus_variance(0.5):reward-1,reward-2
weights:reward*1,brevity*0.2                  several objectives
log_sigmoid:helpful@0,safe@1
gate(safe>=0,-2):reward                       reward where safe is at least 0, else -2
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from services.reward import combining

_FORM = re.compile(r"(?P<how>[a-z_]+)(?:\((?P<arguments>[^)]*)\))?:(?P<parts>.+)")
_GATE = re.compile(r"(?P<scorer>[^>]+)>=(?P<threshold>[^,]+),(?P<otherwise>[^,]+)")
ENSEMBLES = ("mean", "min", "mean_minus_variance")
KINDS = (*ENSEMBLES, "weights", "log_sigmoid", "gate")


@dataclass(frozen=True)
class Combination:
    """Parts by name and what is made of their scores: Combination("mean:a,b", ("a", "b"), mean, True)."""

    text: str
    parts: tuple[str, ...]
    combine: Callable[[Sequence[float]], float]
    is_ensemble: bool  # the parts estimate one thing, so that their spread is a disagreement


def read_combination(text: str) -> Combination:
    """The combination that a text names. Raises ValueError with a sentence for any other text."""
    form = _FORM.fullmatch(text)
    if form is None or form["how"] not in KINDS:
        raise ValueError(f"must be HOW:PART,PART with HOW one of {', '.join(KINDS)}, not {text!r}")
    how, parts = form["how"], form["parts"].split(",")
    takes_arguments = how in ("gate", "mean_minus_variance")
    if takes_arguments != bool(form["arguments"]):
        raise ValueError(f"{how} takes {'an argument in' if takes_arguments else 'no'} (...), in {text!r}")
    read = _ensemble if how in ENSEMBLES else _gate if how == "gate" else _objectives
    names, combine = read(how, parts, form["arguments"] or "")
    if not all(names) or len(set(names)) < len(names):
        raise ValueError(f"every part needs a name of its own, in {text!r}")
    return Combination(text, names, combine, how in ENSEMBLES)


Read = tuple[tuple[str, ...], Callable[[Sequence[float]], float]]


def _ensemble(how: str, parts: list[str], arguments: str) -> Read:
    if len(parts) < 2:
        raise ValueError(f"an ensemble needs at least two members, has {', '.join(parts)}")
    if how == "mean":
        return tuple(parts), combining.mean
    if how == "min":
        return tuple(parts), combining.minimum
    weight = _number(arguments)
    if weight < 0:
        raise ValueError(f"the variance's weight must be at least 0, is {arguments}")
    return tuple(parts), partial(combining.mean_minus_variance, weight=weight)


def _objectives(how: str, parts: list[str], arguments: str) -> Read:
    mark = "*" if how == "weights" else "@"
    split = [part.partition(mark) for part in parts]
    if not all(found for _, found, _ in split):
        raise ValueError(f"{how}: every part is NAME{mark}NUMBER, not {','.join(parts)!r}")
    numbers = [_number(number) for _, _, number in split]
    if how == "weights":
        return tuple(name for name, _, _ in split), partial(combining.weighted_sum, weights_M=numbers)
    return tuple(name for name, _, _ in split), partial(combining.log_sigmoid_sum, references_M=numbers)


def _gate(how: str, parts: list[str], arguments: str) -> Read:
    gate = _GATE.fullmatch(arguments)
    if gate is None or len(parts) != 1:
        raise ValueError(f"must be gate(SCORER>=THRESHOLD,OTHERWISE):SCORER, not gate({arguments})")
    threshold, otherwise = _number(gate["threshold"]), _number(gate["otherwise"])

    def combine(scores_M: Sequence[float]) -> float:
        score, opened = scores_M
        return combining.gated(score, opened, threshold, otherwise)

    return (parts[0], gate["scorer"]), combine


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"must be a number, not {text!r}") from None
    if not math.isfinite(number):
        raise ValueError(f"must be a finite number, not {text}")
    return number
