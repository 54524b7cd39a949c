"""Figures as a person reads them. What is not known is "-", never 0."""

import math
from collections.abc import Mapping
from typing import Any

UNKNOWN = "-"


def amount(value: float | None, digits: int = 2) -> str:
    """1.38 is "1.38", 12345.6 is "12,346", None is "-"."""
    if value is None:
        return UNKNOWN
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}f}"
    return text.removeprefix("-") if not text.strip("-0.") else text  # -0.00 is 0.00


def with_interval(interval: Mapping[str, Any] | None, digits: int = 2) -> str:
    """{"mean": 1.38, "low": 1.28, "high": 1.48, "n": 512} is "1.38 [1.28, 1.48]"."""
    if not interval or interval.get("mean") is None:
        return UNKNOWN
    text = amount(interval["mean"], digits)
    low, high = interval.get("low"), interval.get("high")
    return text if low is None or high is None else f"{text} [{amount(low, digits)}, {amount(high, digits)}]"


def in_order(evaluation: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The models of an evaluation, before and after first: a stored report has them by name."""
    models = evaluation.get("models") or {}
    first = [name for name in (evaluation.get("before"), evaluation.get("after")) if name in models]
    return {name: models[name] for name in [*first, *models]}


def share(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """(0.64, 0.542, 0.727) is "64.0% [54.2%, 72.7%]"."""
    if value is None:
        return UNKNOWN
    text = f"{100 * value:.1f}%"
    return text if low is None or high is None else f"{text} [{100 * low:.1f}%, {100 * high:.1f}%]"


def seconds(value: float | None) -> str:
    """12.34 is "12.3 s", 754 is "12 min 34 s"."""
    if value is None:
        return UNKNOWN
    minutes, rest = divmod(round(value), 60)
    return f"{value:.1f} s" if value < 120 else f"{minutes} min {rest} s"


def plain(value: Any) -> str:
    """A name, count or setting."""
    if value is None:
        return UNKNOWN
    return f"{value:g}" if isinstance(value, float) else str(value)


def without_nan(value: Any) -> Any:
    """The same with None for every number that is not finite: JSON has no word for it, 0 would be a lie."""
    if isinstance(value, Mapping):
        return {str(key): without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
