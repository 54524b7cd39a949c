"""Is gold still rising? Slopes of gold and proxy over the last measured rounds, and the distance to the peak.

Rules of Prometheus count seconds and know no rounds, so these are computed here, from the ledger.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.statistics import Z95

WINDOW = 5  # measured rounds that a slope is taken over
FEWEST = 3  # that make one


@dataclass(frozen=True)
class Measured:
    """One round: Measured(round=7, gold=1.2, error=0.05, proxy=0.9); `error` is gold's standard error."""

    round: int
    gold: float
    error: float
    proxy: float | None  # where a learned reward trains


@dataclass(frozen=True)
class Trend:
    """Slopes per round with the error of gold's, and how far both are from where gold had its peak."""

    gold_slope: float
    gold_slope_error: float
    proxy_slope: float | None
    below_peak: float  # in standard errors of the difference
    proxy_above_peak: float | None


def measured(round_number: int, metrics: dict[str, object]) -> Measured | None:
    """A round's measurement from its ledger row; None where it has none that is whole."""
    numbers = [metrics.get(name) for name in ("gold", "gold_low", "gold_high")]
    if not all(isinstance(each, int | float) and math.isfinite(each) for each in numbers):
        return None
    gold, low, high = (float(each) for each in numbers)  # type: ignore[arg-type]
    proxy = metrics.get("proxy")
    known = isinstance(proxy, int | float) and math.isfinite(proxy)
    return Measured(round_number, gold, (high - low) / (2 * Z95), float(proxy) if known else None)  # type: ignore[arg-type]


def trend_of(history: Sequence[Measured]) -> Trend | None:
    """The trend of all measurements so far; None while there are fewer than three."""
    if len(history) < FEWEST:
        return None
    window = history[-WINDOW:]
    mean = sum(each.round for each in window) / len(window)
    spread = sum((each.round - mean) ** 2 for each in window)
    weights = [(each.round - mean) / spread for each in window]  # of least squares
    peak, last = max(history, key=lambda each: each.gold), history[-1]
    error = math.hypot(peak.error, last.error)
    proxies = [each.proxy for each in window if each.proxy is not None]
    whole = len(proxies) == len(window)
    both = last.proxy is not None and peak.proxy is not None
    return Trend(
        gold_slope=sum(w * each.gold for w, each in zip(weights, window, strict=True)),
        gold_slope_error=math.hypot(*(w * each.error for w, each in zip(weights, window, strict=True))),
        proxy_slope=sum(w * p for w, p in zip(weights, proxies, strict=True)) if whole else None,
        below_peak=(peak.gold - last.gold) / error if error > 0 else 0.0,
        proxy_above_peak=last.proxy - peak.proxy if both else None,  # type: ignore[operator]
    )
