"""The numbers that a step reports. Adding one is a row of trueline.metrics and a line where it arises.

A number that does not exist (the spread of one score, a gradient norm in a round that trains no policy) is
absent: never 0, never NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from trueline.metrics import STEP_NUMBERS


def measured(numbers: Mapping[str, float | None]) -> dict[str, float]:
    """The numbers that exist. KeyError for a name that has no row."""
    for name in numbers:
        STEP_NUMBERS[name]
    known = {name: float(value) for name, value in numbers.items() if value is not None}
    return {name: value for name, value in known.items() if math.isfinite(value)}


def mean(numbers: list[float]) -> float | None:
    """The mean; None of nothing."""
    return sum(numbers) / len(numbers) if numbers else None
