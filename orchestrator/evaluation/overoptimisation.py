"""How gold goes while a proxy is pressed: the laws of Gao, Schulman and Hilton 2022 (arXiv 2210.10760).

The distance d is the square root of the KL to the policy that was started from; gold counts from there, so
that R(0) = 0.

    best of n     R(d) = d (alpha - beta d)        highest at d = alpha / (2 beta): alpha^2 / (4 beta)
    RL            R(d) = d (alpha - beta log d)    highest at d = exp(alpha / beta - 1): beta d
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BEST_OF_N, RL = "best_of_n", "rl"


@dataclass(frozen=True)
class Law:
    """A fitted law. `r_squared` is the share of gold's spread that it explains; None where gold has none."""

    form: str
    alpha: float
    beta: float
    r_squared: float | None = None

    def gain(self, d: float) -> float:
        """R(d): gold above its start at the distance d."""
        if d <= 0:
            return 0.0
        return d * (self.alpha - self.beta * (d if self.form == BEST_OF_N else math.log(d)))

    @property
    def peak(self) -> float | None:
        """The distance of the highest gold; None for a law that only rises or only falls."""
        if self.form == BEST_OF_N:
            return self.alpha / (2 * self.beta) if self.beta > 0 and self.alpha > 0 else None
        exponent = self.alpha / self.beta - 1 if self.beta > 0 else math.inf
        return math.exp(exponent) if exponent < 50 else None

    @property
    def zero(self) -> float | None:
        """The distance at which all that was gained is lost again."""
        if self.peak is None:
            return None
        return self.alpha / self.beta if self.form == BEST_OF_N else self.peak * math.e

    def as_dict(self, farthest: float | None = None) -> dict[str, Any]:
        """The law by name; with `farthest`, whether the peak lies within what was measured."""
        peak = self.peak
        found: dict[str, Any] = {
            "form": self.form,
            "alpha": self.alpha,
            "beta": self.beta,
            "r_squared": self.r_squared,
            "peak_distance": peak,
            "peak_kl": None if peak is None else peak**2,
            "peak_gain": None if peak is None else self.gain(peak),
        }
        if farthest is not None:
            found["peak_measured"] = peak is not None and peak <= farthest
        return found


def fit(form: str, distances: Sequence[float], gains: Sequence[float]) -> Law | None:
    """The law of least squares through (distance, gain); both forms are linear in alpha and beta.

    None where two coefficients cannot be told: fewer than two distances above 0 that differ.
    """
    rows = [(d, gain) for d, gain in zip(distances, gains, strict=True) if d > 0]
    bends = [-d * (d if form == BEST_OF_N else math.log(d)) for d, _ in rows]
    aa = math.fsum(d * d for d, _ in rows)
    ab = math.fsum(d * bend for (d, _), bend in zip(rows, bends, strict=True))
    bb = math.fsum(bend * bend for bend in bends)
    determinant = aa * bb - ab * ab
    if determinant <= 1e-12 * aa * bb or not rows:
        return None
    ya = math.fsum(d * gain for d, gain in rows)
    yb = math.fsum(bend * gain for (_, gain), bend in zip(rows, bends, strict=True))
    law = Law(form, (bb * ya - ab * yb) / determinant, (aa * yb - ab * ya) / determinant)
    return Law(form, law.alpha, law.beta, _explained(law, rows))


def _explained(law: Law, rows: Sequence[tuple[float, float]]) -> float | None:
    mean = math.fsum(gain for _, gain in rows) / len(rows)
    total = math.fsum((gain - mean) ** 2 for _, gain in rows)
    return 1 - math.fsum((gain - law.gain(d)) ** 2 for d, gain in rows) / total if total > 0 else None


def curve_of_rounds(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The over-optimisation curve of a run's rounds, with the fitted law; None without two rounds of gold.

    A round measures gold and proxy of the policy that it starts with, and the KL of the samples drawn from
    that same policy. Rounds that were rolled back stay: they were measured.
    """
    measured = [
        each for each in rounds if all(_is_number(each.get(name)) for name in ("gold", "kl_reference_k1"))
    ]
    if len(measured) < 2:
        return None
    points = [
        {
            "round": each["round"],
            "kl": each["kl_reference_k1"],
            "distance": math.sqrt(max(0.0, each["kl_reference_k1"])),  # unbiased, so below 0 at times near 0
            **{name: each.get(name) for name in ("gold", "gold_low", "gold_high", "proxy")},
        }
        for each in measured
    ]
    start = min(points, key=lambda point: point["distance"])
    distances = [point["distance"] for point in points]
    gains = [point["gold"] - start["gold"] for point in points]
    law = fit(RL, distances, gains)
    return {
        "points": points,
        "gold_at_start": start["gold"],
        "law": law.as_dict(max(distances)) if law else None,
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
