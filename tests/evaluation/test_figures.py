"""Length control, diversity: hand-computed values and what must hold of any figure."""

import math
import random

import pytest

from orchestrator.evaluation import diversity
from orchestrator.evaluation.length_control import fit_logistic, length_controlled, sigmoid


@pytest.mark.known_answer("F9")
def test_distinct_and_repeated_runs_and_entropy() -> None:
    words = ["a", "b", "a", "b", "c"]
    assert diversity.distinct([words], 1) == pytest.approx(0.6)
    assert diversity.distinct([words], 2) == pytest.approx(0.75)
    assert diversity.repeated(words, 2) == pytest.approx(0.25)
    assert diversity.unigram_entropy(words) == pytest.approx(1.0549201679861442, rel=1e-12)
    assert diversity.distinct([["a"]], 2) is None and diversity.unigram_entropy([]) is None


def test_self_bleu_is_one_for_one_text_and_falls_with_variety() -> None:
    same = [["we", "will", "replace", "your", "lamp"]] * 3
    assert diversity.self_bleu(same) == pytest.approx(1.0)
    apart = [["a", "b", "c", "d", "e"], ["f", "g", "h", "i", "j"], ["k", "l", "m", "n", "o"]]
    assert diversity.self_bleu(apart) == 0.0
    mixed = diversity.self_bleu([*same, *apart])
    assert mixed is not None and 0 < mixed < 1
    assert diversity.self_bleu([["a"], []]) is None


def test_self_bleu_by_hand() -> None:
    # Of "a b" one word of two and no pair of one matches, of "a c" the same: sqrt(1/2 * 1/2), no penalty.
    assert diversity.self_bleu([["a", "b"], ["a", "c"]]) == pytest.approx(0.5)
    # "a" matches whole and is one word against two: exp(1 - 2/1). "a b": sqrt(1/2 * 1/2).
    assert diversity.self_bleu([["a"], ["a", "b"]]) == pytest.approx((math.exp(-1) + 0.5) / 2)


def test_the_fit_of_a_constant_is_the_share_and_its_error_is_known() -> None:
    fitted = fit_logistic([1.0] * 30 + [0.0] * 10, [0.0] * 40)
    assert fitted is not None
    theta, phi, spread = fitted
    assert sigmoid(theta) == pytest.approx(0.75) and phi == 0.0
    assert spread == pytest.approx(1 / math.sqrt(40 * 0.75 * 0.25))


def test_the_fit_solves_the_likelihood_equations() -> None:
    draw = random.Random(3)
    terms = [draw.uniform(-1, 1) for _ in range(400)]
    outcomes = [float(draw.random() < sigmoid(0.4 + 1.5 * term)) for term in terms]
    fitted = fit_logistic(outcomes, terms)
    assert fitted is not None
    misses = [y - sigmoid(fitted[0] + fitted[1] * t) for y, t in zip(outcomes, terms, strict=True)]
    assert math.fsum(misses) == pytest.approx(0, abs=1e-9)
    assert math.fsum(m * t for m, t in zip(misses, terms, strict=True)) == pytest.approx(0, abs=1e-9)
    assert fitted[0] == pytest.approx(0.4, abs=0.3) and fitted[1] == pytest.approx(1.5, abs=0.6)


def test_wins_that_length_explains_are_taken_out() -> None:
    # The longer answer wins 9 times of 10, and after is the longer one in 3 of 4 pairs.
    draw = random.Random(0)
    differences = [draw.choice([10.0, 10.0, 10.0, -10.0]) + draw.random() for _ in range(2000)]
    outcomes = [float(draw.random() < (0.9 if each > 0 else 0.1)) for each in differences]
    raw = sum(outcomes) / len(outcomes)
    found = length_controlled(outcomes, differences)
    assert raw == pytest.approx(0.7, abs=0.03)
    assert found.rate == pytest.approx(0.5, abs=0.05)
    assert found.low is not None and found.high is not None and found.low < 0.5 < found.high
    assert found.length_coefficient is not None and found.length_coefficient > 1


def test_equal_lengths_leave_the_plain_rate_and_ties_count_half() -> None:
    found = length_controlled([1.0, 1.0, 0.5, 0.0], [3.0] * 4)
    assert found.rate == pytest.approx(0.625) and found.length_coefficient == 0.0


@pytest.mark.parametrize(
    ("outcomes", "differences"),
    [([1.0] * 5, [1.0, 2.0, -1.0, 0.0, 3.0]), ([1.0, 1.0, 0.0, 0.0], [5.0, 4.0, -4.0, -5.0]), ([1.0], [1.0])],
)
def test_where_no_finite_fit_exists_there_is_no_number(
    outcomes: list[float], differences: list[float]
) -> None:
    found = length_controlled(outcomes, differences)
    assert found.rate is None and found.low is None and found.why


@pytest.mark.parametrize("outcome", [1.5, float("nan")])
def test_an_outcome_that_is_none_is_refused(outcome: float) -> None:
    with pytest.raises(ValueError, match=r"outcomes\[1\]"):
        length_controlled([0.0, outcome], [0.0, 1.0])
