"""Did what is wanted fall while its proxy rose? Gold's peak among a run's measurements, and the fall from it.

    measured = {1: Measured([1.0, 1.2, ...], [0.1, ...]), 3: ..., 29: ...}    # held-out prompts, in one order
    peak_and_fall(measured).fall.high < 0                                     # it fell, at 95%

The largest of many noisy means is too large, and a fall from it partly noise. So the peak is chosen on every
other prompt, and the fall is measured on those between, prompt by prompt: an honest interval, and a narrower
one than the two means' own, since hard prompts are hard at both times.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.statistics import Interval, mean_interval, mean_of

Numbers = Sequence[float | None]  # one per held-out prompt, None where it has no score


@dataclass(frozen=True)
class Measured:
    """Gold and proxy of one policy on the held-out prompts."""

    gold: Numbers
    proxy: Numbers

    @classmethod
    def of_phase(cls, output: Mapping[str, Any]) -> "Measured":
        """From the ledger; rounds whose labels come from a judge have no proxy."""
        gold = output["gold_scores"]
        return cls(gold, output.get("proxy_scores", [None] * len(gold)))


@dataclass(frozen=True)
class PeakAndFall:
    """Last minus peak, on the prompts that did not choose the peak; a fall is below 0."""

    peak_round: int
    last_round: int
    gold_at_peak: float | None
    gold_last: float | None
    proxy_at_peak: float | None
    proxy_last: float | None
    fall: Interval
    proxy_rise: Interval

    @property
    def is_overoptimised(self) -> bool:
        """Gold fell, at 95%, while the proxy rose."""
        fell = self.fall.high is not None and self.fall.high < 0
        return fell and self.proxy_rise.mean is not None and self.proxy_rise.mean > 0

    def as_dict(self) -> dict[str, Any]:
        """As the report holds it."""
        intervals = {name: getattr(self, name).as_dict() for name in ("fall", "proxy_rise")}
        return {**vars(self), **intervals, "overoptimised": self.is_overoptimised}


def peak_and_fall(measured: Mapping[int, Measured]) -> PeakAndFall | None:
    """Peak and fall over the rounds that were measured; None where there is nothing to compare."""
    chosen_by = {number: mean_of(known(each.gold[0::2])) for number, each in measured.items()}
    means = {number: mean for number, mean in chosen_by.items() if mean is not None}
    if len(means) < 2:
        return None
    peak, last = max(means, key=lambda number: (means[number], -number)), max(means)
    before, after = measured[peak], measured[last]
    return PeakAndFall(
        peak_round=peak,
        last_round=last,
        gold_at_peak=mean_of(known(before.gold[1::2])),
        gold_last=mean_of(known(after.gold[1::2])),
        proxy_at_peak=mean_of(known(before.proxy[1::2])),
        proxy_last=mean_of(known(after.proxy[1::2])),
        fall=mean_interval(differences(before.gold[1::2], after.gold[1::2])),
        proxy_rise=mean_interval(differences(before.proxy[1::2], after.proxy[1::2])),
    )


def differences(before: Numbers, after: Numbers) -> list[float]:
    """after - before of every prompt that has both."""
    pairs = zip(before, after, strict=True)
    return [b - a for a, b in pairs if a is not None and b is not None]


def known(numbers: Numbers) -> list[float]:
    """Those that are there."""
    return [each for each in numbers if each is not None]
