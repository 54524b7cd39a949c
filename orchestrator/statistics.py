"""Figures with their uncertainty: means, shares and win rates, each with a 95% interval.

win_rate(before=[1.0, 2.0, 3.0], after=[2.0, 2.0, 1.0])
WinRate(wins=1, losses=1, ties=1, rate=0.5, low=0.15, high=0.85)
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

Z95 = 1.959963984540054  # the normal distribution's 97.5% point

# Student's t, 97.5% point, by degrees of freedom 1 to 29; from 30 on the expansion below is within 0.001.
_T95 = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
    *(2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452),
)


@dataclass(frozen=True)
class Interval:
    """A mean of n values and its 95% interval; None where n is too small to tell."""

    mean: float | None
    low: float | None
    high: float | None
    n: int

    def as_dict(self, name: str = "mean") -> dict[str, float | int | None]:
        """{"mean": 1.4, "low": 1.3, "high": 1.5, "n": 512}, or with another name for the mean."""
        return {name: self.mean, "low": self.low, "high": self.high, "n": self.n}


@dataclass(frozen=True)
class WinRate:
    """How often the one beats the other; a tie is half a win. The interval is Wilson's."""

    wins: int
    losses: int
    ties: int
    rate: float | None
    low: float | None
    high: float | None

    def as_dict(self) -> dict[str, float | int | None]:
        """The fields by name."""
        return dict(vars(self))


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean with Student's t 95% interval; no interval for one value, no mean for none.

    mean_interval([1, 2, 3]) is 2 with 2 -+ 4.3027 / sqrt(3). Raises ValueError on a non-finite value.
    """
    for index, value in enumerate(values):
        if not math.isfinite(value):
            raise ValueError(f"values[{index}]: must be finite, is {value}")
    n = len(values)
    if n == 0:
        return Interval(None, None, None, 0)
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, None, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = student_t95(n - 1) * math.sqrt(variance / n)
    return Interval(mean, mean - half, mean + half, n)


def student_t95(freedom: int) -> float:
    """The 97.5% point of Student's t with `freedom` degrees of freedom (Abramowitz and Stegun 26.7.5)."""
    if freedom < 1:
        raise ValueError(f"freedom: must be at least 1, is {freedom}")
    if freedom <= len(_T95):
        return _T95[freedom - 1]
    return Z95 + (Z95**3 + Z95) / (4 * freedom) + (5 * Z95**5 + 16 * Z95**3 + 3 * Z95) / (96 * freedom**2)


def wilson(successes: float, n: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share (Wilson 1927). Half successes are allowed: a tie is one.

    wilson(64, 100) is (0.5423540245160874, 0.7272877959859567).
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"successes: must be in [0, n] with n at least 1, is {successes} of {n}")
    share = successes / n
    scale = 1 + Z95**2 / n
    centre = (share + Z95**2 / (2 * n)) / scale
    half = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


def share_interval(successes: float, n: int) -> Interval:
    """A share, such as an accuracy, with Wilson's interval; nothing known for n of 0."""
    if n == 0:
        return Interval(None, None, None, 0)
    low, high = wilson(successes, n)
    return Interval(successes / n, low, high, n)


def win_rate(before: Sequence[float], after: Sequence[float]) -> WinRate:
    """How often `after` is above `before`, pair by pair."""
    if len(before) != len(after):
        raise ValueError(f"before and after must pair up, have {len(before)} and {len(after)}")
    pairs = list(zip(before, after, strict=True))
    wins = sum(b < a for b, a in pairs)
    losses = sum(b > a for b, a in pairs)
    return win_rate_of_counts(wins, losses, len(pairs) - wins - losses)


def win_rate_of_counts(wins: int, losses: int, ties: int) -> WinRate:
    """The win rate of 61 wins, 33 losses and 6 ties is 0.64."""
    n = wins + losses + ties
    share = share_interval(wins + ties / 2, n)
    return WinRate(wins, losses, ties, share.mean, share.low, share.high)


@dataclass(frozen=True)
class TwoSamples:
    """Kolmogorov-Smirnov: the largest distance of two distribution functions, and how likely one as large is.

    two_samples([1, 2, 3, 4], [1, 2, 3, 4])    TwoSamples(distance=0.0, p_value=1.0)
    """

    distance: float
    p_value: float


def two_samples(first: Sequence[float], second: Sequence[float]) -> TwoSamples | None:
    """Whether two samples come from one distribution; None where one is empty.

    The p-value is the asymptotic one with Stephens' correction (Numerical Recipes, 3rd ed., eq. 14.3.18), too
    large where there are ties, as among lengths: it cries wolf too seldom.
    """
    if not first or not second:
        return None
    one, other = Counter(first), Counter(second)
    below = distance = 0.0
    for value in sorted(one.keys() | other.keys()):
        below += one[value] / len(first) - other[value] / len(second)
        distance = max(distance, abs(below))
    root = math.sqrt(len(first) * len(second) / (len(first) + len(second)))
    return TwoSamples(distance, kolmogorov_tail((root + 0.12 + 0.11 / root) * distance))


def mean_of(numbers: Sequence[float]) -> float | None:
    """The mean; None where there is nothing to average."""
    return sum(numbers) / len(numbers) if numbers else None


def kolmogorov_tail(x: float) -> float:
    """Q(x) = 2 sum over j of (-1)^(j-1) exp(-2 j^2 x^2); Q(1.3581) = 0.05."""
    if x < 0.2:
        return 1.0  # the series converges slowly there; Q(0.2) is 1 to twelve places
    terms = ((-1) ** (j - 1) * math.exp(-2 * j * j * x * x) for j in range(1, 101))
    return min(1.0, max(0.0, 2 * sum(terms)))
