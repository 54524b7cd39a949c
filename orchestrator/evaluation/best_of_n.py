"""Best of n: the answer that the proxy likes best of n drawn, and what the gold score says of it.

points = curve(proxies=[[0.1, 0.9, 0.4, 0.2]], golds=[[1.0, 0.5, 2.0, 0.0]], counts=[1, 2, 4])
points[0]                     n 1, KL 0, gold 0.875 (the mean of all), proxy 0.4
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


def kl(n: int) -> float:
    """log n - (n-1)/n: nats from one draw to the best of n. Exact without ties, else an upper bound.

    Beirami et al. 2024 (arXiv 2401.01879). Raises ValueError below 1.
    """
    if n < 1:
        raise ValueError(f"n: must be at least 1, is {n}")
    return math.log(n) - (n - 1) / n


def kl_of_two(n: int) -> float:
    """The true KL where two answers are equally likely: log 2 - h(2**-n), at most log 2 (Beirami et al.).

    The formula of `kl` grows without limit here: an example of how loose it is where answers repeat.
    """
    chance = 2.0**-n
    rest = 1 - chance
    entropy = -chance * math.log(chance) - (rest * math.log(rest) if rest else 0.0)
    return math.log(2) - entropy


def win_rate_against_one(n: int) -> float:
    """n / (n+1): how often the best of n beats one draw by the same score, where scores do not tie."""
    return n / (n + 1)


def doublings(most: int) -> list[int]:
    """[1, 2, 4, ..., most]: the numbers at which a curve is measured. doublings(6) is [1, 2, 4, 6]."""
    counts = [1]
    while 2 * counts[-1] < most:
        counts.append(2 * counts[-1])
    return counts if most <= 1 else [*counts, most]


def expected_best(proxies: Sequence[float], values: Sequence[float], n: int) -> float:
    """The mean of `values` over the proxy's favourites of n, over all ways to draw n of these N answers.

    Unbiased, where one group of n would waste the rest (Nakano et al. 2021, WebGPT, appendix I): answer i of
    the proxy's ascending order is the best of C(i-1, n-1) groups of C(N, n). Answers of one proxy score share
    their part, as a tie that is broken by a fair coin. Raises ValueError for n above N.
    """
    total = len(proxies)
    if len(values) != total:
        raise ValueError(f"proxies and values must pair up, have {total} and {len(values)}")
    if not 1 <= n <= total:
        raise ValueError(f"n: must be in [1, {total}], is {n}")
    order = sorted(range(total), key=lambda index: proxies[index])
    groups = math.comb(total, n)
    expected: list[float] = []
    start = 0
    while start < total:
        stop = start + 1
        while stop < total and proxies[order[stop]] == proxies[order[start]]:
            stop += 1
        # Groups whose best lies in this run of ties: those within the first `stop` less those within `start`.
        share = (math.comb(stop, n) - math.comb(start, n)) / groups
        expected.append(share * math.fsum(values[order[i]] for i in range(start, stop)) / (stop - start))
        start = stop
    return math.fsum(expected)


@dataclass(frozen=True)
class Point:
    """Best of n over all prompts that have n scored answers: their values prompt by prompt."""

    n: int
    kl: float
    proxies: list[float]
    golds: list[float] | None
    prompts: list[int]  # places of these prompts in what was given


def curve(
    proxies: Sequence[Sequence[float]], golds: Sequence[Sequence[float]] | None, counts: Sequence[int]
) -> list[Point]:
    """A point for each n of `counts`. A prompt with fewer answers than n has no part in that point."""
    points = []
    for n in counts:
        enough = [index for index, scores in enumerate(proxies) if len(scores) >= n]
        points.append(
            Point(
                n,
                kl(n),
                [expected_best(proxies[index], proxies[index], n) for index in enough],
                None if golds is None else [expected_best(proxies[i], golds[i], n) for i in enough],
                enough,
            )
        )
    return points
