"""Published answers E1 to E5: soft labels in both orders, clamping, ensembles, expected scores."""

import math

import pytest

from services.judge import labels
from services.judge.records import Abstained, Answer, Reason
from services.judge.verdicts import Order, Reading, Rules, pair_value, read_pair

EXACT = 1e-12


def read(as_given: tuple[float, float], swapped: tuple[float, float], rules: Rules) -> list[Reading]:
    asked = ((Order.AS_GIVEN, Answer(as_given)), (Order.SWAPPED, Answer(swapped)))
    return [Reading("p", 1.0, order, read_pair(order, answer, rules), answer) for order, answer in asked]


@pytest.mark.known_answer("E1")
def test_a_soft_label_is_the_mean_over_both_orders():
    readings = read((-0.4, -1.6), (-0.9, -0.8), Rules())
    assert [reading.value for reading in readings] == pytest.approx(
        [0.7685247834990178, 0.52497918747894], rel=EXACT
    )
    assert pair_value(readings, Rules()) == pytest.approx(0.6467519854889789, rel=EXACT)


@pytest.mark.known_answer("E2")
def test_orders_that_prefer_different_responses_are_an_abstention_unless_tolerated():
    readings = read((-0.4, -1.6), (-0.8, -0.9), Rules())
    assert [reading.value for reading in readings] == pytest.approx(
        [0.7685247834990178, 0.4750208125210601], rel=EXACT
    )
    refused = pair_value(readings, Rules())
    assert isinstance(refused, Abstained) and refused.reason is Reason.ORDERS_DISAGREE
    tolerated = pair_value(readings, Rules(disagreement_tolerance=0.3))
    assert tolerated == pytest.approx(0.6217727980100389, rel=EXACT)


@pytest.mark.known_answer("E3")
def test_probabilities_behind_reasoning_are_clamped_and_others_are_not():
    given = [0.93, 0.07, 0.55, 0.4, 0.6, 0.999]
    assert [labels.clamp_reasoned(p) for p in given] == [0.6, 0.4, 0.55, 0.4, 0.6, 0.6]
    answer = Answer((math.log(0.93), math.log(0.07)))
    assert read_pair(Order.AS_GIVEN, answer, Rules(chain_of_thought=True)) == 0.6
    assert read_pair(Order.AS_GIVEN, answer, Rules()) == pytest.approx(0.93)


@pytest.mark.known_answer("E4")
def test_an_ensemble_of_principles_is_the_mean_of_their_probabilities():
    assert labels.weighted_mean([0.9, 0.6, 0.2], [1, 1, 1]) == pytest.approx(0.5666666666666667, rel=EXACT)
    assert labels.weighted_mean([0.9, 0.6, 0.2], [2, 1, 1]) == pytest.approx(0.65, rel=EXACT)


@pytest.mark.known_answer("E5")
def test_a_score_is_the_expectation_over_the_ten_levels_renormalised():
    whole = [0.01, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.2, 0.08]
    part = [*whole[:9], 0.03]
    assert labels.expected_level([math.log(p) for p in whole]) == pytest.approx(7.46, rel=EXACT)
    logprobs = [math.log(p) for p in part]
    assert labels.expected_level(logprobs) == pytest.approx(7.326315789473684, rel=EXACT)
    assert labels.option_mass(logprobs) == pytest.approx(0.95, rel=EXACT)


def test_a_spelling_that_goes_on_to_be_another_counts_for_what_it_is_when_it_does_not():
    one, ten, dozen = {(1,): math.log(0.5)}, {(1, 0): math.log(0.2)}, {(1, 0, 2): math.log(0.05)}
    found = labels.option_logprobs([one, ten, dozen])
    assert [math.exp(each) for each in found] == pytest.approx([0.3, 0.15, 0.05], rel=EXACT)


def test_spellings_of_one_option_add_up_and_none_at_all_is_no_probability():
    found = labels.option_logprobs([{(1,): math.log(0.2), (7,): math.log(0.3)}, {(2,): -math.inf}])
    assert found == pytest.approx([math.log(0.5), -math.inf])
    with pytest.raises(ValueError, match="no option has a probability"):
        labels.option_probabilities([-math.inf, -math.inf])


@pytest.mark.parametrize(("p", "band", "tie"), [(0.5, 0, True), (0.55, 0.05, True), (0.56, 0.05, False)])
def test_the_tie_band_holds_its_edge(p: float, band: float, tie: bool):
    assert labels.is_tie(p, band) is tie
