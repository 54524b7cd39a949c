"""How far a judge can be trusted: agreement, bias and calibration. Pure functions, standard library only."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.statistics import Interval

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Agreement:
    """How often two raters say the same, and how much of that chance does not explain."""

    n: int
    agreement: float | None
    expected: float | None
    kappa: Interval


def agreement_of(table: Sequence[Sequence[int]]) -> Agreement:
    """Cohen's kappa (1960) of a square table of counts, with its large-sample 95% interval.

    agreement_of([[40, 10], [5, 45]]) has agreement 0.85, of which 0.5 is expected by chance: kappa 0.7.
    No kappa where chance alone explains everything, as where both raters only ever say one thing.
    """
    n = sum(sum(row) for row in table)
    if n == 0:
        return Agreement(0, None, None, Interval(None, None, None, 0))
    observed = sum(table[i][i] for i in range(len(table))) / n
    columns = [sum(row[i] for row in table) for i in range(len(table))]
    expected = sum(sum(row) * column for row, column in zip(table, columns, strict=True)) / n**2
    if expected == 1.0:
        return Agreement(n, observed, expected, Interval(None, None, None, n))
    kappa = (observed - expected) / (1 - expected)
    half = Z95 * math.sqrt(observed * (1 - observed) / n) / (1 - expected)
    return Agreement(
        n, observed, expected, Interval(kappa, max(-1.0, kappa - half), min(1.0, kappa + half), n)
    )


def table_of(first: Sequence[bool], second: Sequence[bool]) -> list[list[int]]:
    """How often two raters said yes and yes, yes and no, no and yes, no and no."""
    table = [[0, 0], [0, 0]]
    for one, other in zip(first, second, strict=True):
        table[not one][not other] += 1
    return table


def calibration_error(
    confidence: Sequence[float], correct: Sequence[bool], bins: Sequence[float]
) -> float | None:
    """Expected calibration error (Naeini et al. 2015): the mean gap between confidence and accuracy, by bin.

    `bins` are edges, the first included in the first bin; an entry outside them is a ValueError.
    """
    if not confidence:
        return None
    groups: dict[int, list[tuple[float, bool]]] = {}
    for sure, right in zip(confidence, correct, strict=True):
        if not bins[0] <= sure <= bins[-1]:
            raise ValueError(f"confidence: must be within {bins[0]:g} to {bins[-1]:g}, is {sure:g}")
        place = next(index for index, edge in enumerate(bins[1:]) if sure <= edge)
        groups.setdefault(place, []).append((sure, right))
    gaps = (
        abs(sum(sure for sure, _ in group) - sum(right for _, right in group)) for group in groups.values()
    )
    return sum(gaps) / len(confidence)


def brier(probability: Sequence[float], happened: Sequence[bool]) -> float | None:
    """Mean squared gap between a probability and what happened (Brier 1950)."""
    if not probability:
        return None
    return sum((p - h) ** 2 for p, h in zip(probability, happened, strict=True)) / len(probability)


def correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Pearson's r; None where one of the two does not vary."""
    n = len(first)
    if n < 2:
        return None
    mean_first, mean_second = sum(first) / n, sum(second) / n
    deviations = [(x - mean_first, y - mean_second) for x, y in zip(first, second, strict=True)]
    spread = math.sqrt(sum(x * x for x, _ in deviations) * sum(y * y for _, y in deviations))
    return sum(x * y for x, y in deviations) / spread if spread else None
