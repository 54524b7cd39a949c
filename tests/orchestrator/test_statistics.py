"""Intervals: against hand-computed values and the field's known answers."""

import math
from random import Random

import pytest

from orchestrator.statistics import (
    Z95,
    kolmogorov_tail,
    mean_interval,
    share_interval,
    student_t95,
    two_samples,
    wilson,
    win_rate,
    win_rate_of_counts,
)


@pytest.mark.known_answer("E7")
def test_win_rate_counts_ties_as_half_with_wilsons_interval() -> None:
    found = win_rate_of_counts(wins=61, losses=33, ties=6)
    assert found.rate == pytest.approx(0.64, abs=1e-15)
    assert (found.low, found.high) == pytest.approx((0.5423540245160874, 0.7272877959859567), abs=1e-12)
    assert wilson(64, 100) == pytest.approx((0.5423540245160874, 0.7272877959859567), abs=1e-12)


def test_win_rate_compares_pair_by_pair() -> None:
    found = win_rate(before=[1.0, 2.0, 3.0, 0.0], after=[2.0, 2.0, 1.0, 5.0])
    assert (found.wins, found.losses, found.ties, found.rate) == (2, 1, 1, 0.625)
    with pytest.raises(ValueError, match="must pair up, have 1 and 2"):
        win_rate([1.0], [1.0, 2.0])


def test_a_mean_has_students_interval() -> None:
    found = mean_interval([1.0, 2.0, 3.0])
    half = 4.3027 / math.sqrt(3)
    assert (found.mean, found.low, found.high, found.n) == pytest.approx((2.0, 2 - half, 2 + half, 3))


def test_what_cannot_be_known_is_none_and_never_zero() -> None:
    assert vars(mean_interval([])) == {"mean": None, "low": None, "high": None, "n": 0}
    assert vars(mean_interval([0.5])) == {"mean": 0.5, "low": None, "high": None, "n": 1}
    assert share_interval(0, 0).mean is None
    assert win_rate([], []).rate is None


def test_a_value_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match=r"values\[1\]: must be finite, is nan"):
        mean_interval([1.0, math.nan])
    with pytest.raises(ValueError, match="is 3 of 2"):
        wilson(3, 2)


def test_students_t_meets_its_tabled_values_on_both_sides_of_the_table() -> None:
    assert [student_t95(freedom) for freedom in (1, 29)] == [12.7062, 2.0452]
    tabled = {30: 2.0423, 40: 2.0211, 60: 2.0003, 120: 1.9799}
    for freedom, value in tabled.items():
        assert student_t95(freedom) == pytest.approx(value, abs=2e-4)
    assert student_t95(10**9) == pytest.approx(Z95, abs=1e-8)


def test_the_interval_of_a_mean_holds_the_truth_in_95_of_100_samples() -> None:
    random = Random(0)
    held = 0
    for _ in range(2000):
        found = mean_interval([random.gauss(1.0, 3.0) for _ in range(8)])
        assert found.low is not None and found.high is not None
        held += found.low <= 1.0 <= found.high
    assert 0.935 <= held / 2000 <= 0.965


def test_wilsons_interval_stays_within_0_and_1_and_is_symmetric() -> None:
    low, high = wilson(0, 10)
    assert low == 0.0 and high == pytest.approx(Z95**2 / (10 + Z95**2))
    assert wilson(10, 10) == pytest.approx((1 - high, 1.0))


def test_two_samples_are_as_far_apart_as_their_distribution_functions() -> None:
    """Below 3 lie 2/4 of the one and 0/2 of the other; samples of one distribution are at distance 0."""
    apart = two_samples([1, 2, 3, 4], [3, 4])
    assert apart is not None and apart.distance == pytest.approx(0.5)
    same = two_samples([1, 2, 2, 3], [2, 3, 1, 2])
    assert same is not None and (same.distance, same.p_value) == (0.0, 1.0)
    whole = two_samples([1.0] * 50, [2.0] * 50)
    assert whole is not None and whole.distance == 1.0 and whole.p_value < 1e-15
    assert two_samples([], [1.0]) is None


def test_the_tail_of_the_kolmogorov_distribution_has_its_tabled_points() -> None:
    """Smirnov's table (1948): 5% at 1.3581, 1% at 1.6276."""
    assert kolmogorov_tail(1.3581) == pytest.approx(0.05, abs=2e-5)
    assert kolmogorov_tail(1.6276) == pytest.approx(0.01, abs=1e-5)
    assert kolmogorov_tail(0.0) == 1.0 and 0.999 < kolmogorov_tail(0.3) <= 1.0
