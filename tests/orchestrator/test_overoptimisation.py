"""Gold's peak and the fall from it: chosen on one half of the prompts, measured on the other."""

from random import Random

import pytest

from benchmarks.seeds import overoptimised
from orchestrator.overoptimisation import Measured, peak_and_fall
from orchestrator.statistics import mean_interval


def measured(gold: list[float | None], proxy: list[float | None] | None = None) -> Measured:
    return Measured(gold, proxy or [0.0] * len(gold))


def test_the_fall_is_the_mean_difference_on_the_prompts_that_did_not_choose_the_peak() -> None:
    # Even places choose, odd ones measure: round 3 is the peak though the odd places prefer round 1.
    found = peak_and_fall(
        {
            1: measured([0.0, 9.0, 0.0, 9.0, 0.0, 9.0]),
            3: measured([5.0, 2.0, 5.0, 3.0, 5.0, 4.0], [0.0, 1.0, 0.0, 1.0, 0.0, 1.0]),
            5: measured([1.0, 1.0, 1.0, 1.0, 1.0, 1.0], [0.0, 2.0, 0.0, 3.0, 0.0, 4.0]),
        }
    )
    assert found is not None
    assert (found.peak_round, found.last_round) == (3, 5)
    assert (found.gold_at_peak, found.gold_last) == (3.0, 1.0)
    assert found.fall == mean_interval([-1.0, -2.0, -3.0])
    assert found.proxy_rise == mean_interval([1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("fall", "rise", "holds"), [(-1.0, 0.1, True), (-1.0, -0.1, False), (-0.001, 0.1, False)]
)
def test_it_holds_only_where_gold_fell_clear_of_noise_and_the_proxy_rose(
    fall: float, rise: float, holds: bool
) -> None:
    random = Random(0)
    gold: list[float | None] = [random.gauss(2, 1) for _ in range(400)]
    later: list[float | None] = [value + fall + random.gauss(0, 0.3) for value in gold if value is not None]
    later[0] = -100.0  # among those that choose: the peak is the first round
    found = peak_and_fall({1: measured(gold), 2: measured(later, [rise] * 400)})
    assert found is not None
    assert found.peak_round == 1
    assert found.is_overoptimised is holds
    assert found.as_dict()["overoptimised"] is holds


def test_noise_alone_is_called_a_fall_about_as_often_as_the_interval_says() -> None:
    """Fifteen measurements of one policy: two disjoint means would flatter the peak, this does not."""
    random, called = Random(1), 0
    for _ in range(300):
        rounds = {
            number: measured([random.gauss(2, 1) for _ in range(80)], [float(number)] * 80)
            for number in range(15)
        }
        found = peak_and_fall(rounds)
        assert found is not None
        called += found.is_overoptimised
    assert called <= 0.06 * 300  # 2.5% are expected


def test_a_prompt_without_a_score_is_left_out_of_the_difference() -> None:
    found = peak_and_fall(
        {1: measured([3.0, 5.0, 3.0, None, 3.0, 4.0]), 2: measured([1.0, 4.0, 1.0, 0.0, 1.0, 1.0])}
    )
    assert found is not None
    assert found.fall == mean_interval([-1.0, -3.0])


def test_gold_that_falls_without_a_proxy_is_a_fall_and_no_overoptimisation() -> None:
    phases = {1: {"gold_scores": [2.0, 2.0] * 20}, 2: {"gold_scores": [1.0, 1.1] * 20}}
    found = peak_and_fall({number: Measured.of_phase(output) for number, output in phases.items()})
    assert found is not None
    assert (found.peak_round, found.fall.mean, found.proxy_rise.n) == (1, pytest.approx(-0.9), 0)
    assert not found.is_overoptimised


def test_one_measurement_shows_nothing() -> None:
    assert peak_and_fall({}) is None
    assert peak_and_fall({1: measured([1.0, 2.0])}) is None


@pytest.mark.parametrize("last", [1.0, 3.0])
def test_the_seeds_benchmark_holds_a_run_to_its_report(last: float) -> None:
    random = Random(2)
    rounds = {
        1: measured([random.gauss(2, 0.5) for _ in range(100)]),
        2: measured([random.gauss(last, 0.5) for _ in range(100)], [1.0] * 100),
    }
    found = peak_and_fall(rounds)
    assert found is not None
    row = overoptimised({"overoptimisation": found.as_dict(), "seconds_total": 1.0})
    assert row["holds"] is (last < 2)
    assert row["prompts"] == 50
