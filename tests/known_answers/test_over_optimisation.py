"""Published answers F1 to F4 and what best-of-n and the over-optimisation laws must do besides.

F5, the unbiased estimator, has no published figures: it is held against every way to draw n of N.
"""

import math
import random
from itertools import combinations

import pytest

from orchestrator.evaluation import best_of_n
from orchestrator.evaluation.overoptimisation import BEST_OF_N, RL, Law, curve_of_rounds, fit

EXACT = 1e-12


@pytest.mark.known_answer("F1")
def test_the_kl_of_the_best_of_n():
    kl = {
        1: 0.0,
        2: 0.1931471805599453,
        4: 0.6362943611198906,
        16: 1.8350887222397811,
        60: 3.111011228888767,
        1000: 5.908755278982137,
        60000: 10.002116507870905,
    }
    assert [best_of_n.kl(n) for n in kl] == pytest.approx(list(kl.values()), rel=EXACT)
    assert math.sqrt(best_of_n.kl(60)) == pytest.approx(1.7638058932004868, rel=EXACT)
    wins = {1: 0.5, 2: 0.6666666666666666, 6: 0.8571428571428571, 60000: 0.9999833336111065}
    assert [best_of_n.win_rate_against_one(n) for n in wins] == pytest.approx(list(wins.values()), rel=EXACT)
    with pytest.raises(ValueError, match="at least 1"):
        best_of_n.kl(0)


@pytest.mark.known_answer("F2")
def test_where_answers_repeat_the_true_kl_stays_bounded_and_the_formula_does_not():
    true = {
        1: 0.0,
        2: 0.130812035941137,
        4: 0.459355521853486,
        8: 0.6675877205155338,
        16: 0.6929626965014198,
    }
    assert [best_of_n.kl_of_two(n) for n in true] == pytest.approx(list(true.values()), rel=EXACT)
    assert all(best_of_n.kl_of_two(n) <= best_of_n.kl(n) for n in range(1, 65))


@pytest.mark.known_answer("F3")
def test_peaks_and_zeros_of_the_laws():
    bon, rl = Law(BEST_OF_N, 2.0, 0.25), Law(RL, 1.0, 0.5)
    assert (bon.peak, bon.gain(4.0), bon.zero) == (4.0, 4.0, 8.0)
    assert rl.peak == pytest.approx(2.718281828459045, rel=EXACT)
    assert rl.gain(rl.peak) == pytest.approx(1.3591409142295225, rel=EXACT)
    assert rl.zero == pytest.approx(7.38905609893065, rel=EXACT)
    assert bon.as_dict()["peak_kl"] == 16.0
    assert rl.as_dict()["peak_kl"] == pytest.approx(7.38905609893065, rel=EXACT)
    for d, best, reinforced in (
        (1.0, 1.75, 1.0),
        (2.0, 3.0, 1.3068528194400546),
        (4.0, 4.0, 1.2274112777602189),
        (8.0, 0.0, -0.317766166719343),
    ):
        assert bon.gain(d) == pytest.approx(best, rel=EXACT, abs=EXACT)
        assert rl.gain(d) == pytest.approx(reinforced, rel=EXACT)
    assert Law(BEST_OF_N, 1.0, -0.1).peak is None and Law(RL, 1.0, 0.0).peak is None  # they only rise


@pytest.mark.known_answer("F4")
def test_least_squares_finds_the_coefficients_again():
    d = [1.0, 2.0, 3.0, 5.0, 8.0]
    best = [1.49, 2.56, 3.2099999999999995, 3.2499999999999996, 0.16000000000000014]
    reinforced = [1.1, 1.7425228608304364, 2.2123738342185715, 2.8444274444837347, 3.3102743299652344]
    for form, gains, alpha, beta in ((BEST_OF_N, best, 1.7, 0.21), (RL, reinforced, 1.1, 0.33)):
        law = fit(form, [0.0, *d], [0.0, *gains])
        assert law is not None
        assert (law.alpha, law.beta) == pytest.approx((alpha, beta), rel=1e-11)
        assert law.r_squared == pytest.approx(1.0)
    assert fit(RL, [0.0, 2.0, 2.0], [0.0, 1.0, 1.1]) is None  # one distance tells no two coefficients


def by_enumeration(proxies: list[float], golds: list[float], n: int) -> float:
    """The mean gold of the proxy's favourite over every group of n; ties share."""
    found = []
    for group in combinations(range(len(proxies)), n):
        best = max(proxies[i] for i in group)
        tied = [golds[i] for i in group if proxies[i] == best]
        found.append(sum(tied) / len(tied))
    return sum(found) / len(found)


@pytest.mark.parametrize("ties", [False, True])
def test_the_estimator_is_the_mean_over_every_way_to_draw_n(ties: bool):
    draw = random.Random(5)
    proxies = [float(draw.randrange(4)) if ties else draw.random() for _ in range(9)]
    golds = [draw.gauss(0, 1) for _ in range(9)]
    for n in range(1, 10):
        assert best_of_n.expected_best(proxies, golds, n) == pytest.approx(by_enumeration(proxies, golds, n))
    with pytest.raises(ValueError, match=r"\[1, 9\]"):
        best_of_n.expected_best(proxies, golds, 10)


def test_a_prompt_without_enough_scored_answers_has_no_part_in_a_point():
    points = best_of_n.curve([[0.1, 0.9, 0.4], [0.5]], [[1.0, 0.5, 2.0], [7.0]], best_of_n.doublings(3))
    assert [point.n for point in points] == [1, 2, 3]
    assert points[0].golds == pytest.approx([3.5 / 3, 7.0])
    assert points[1].golds == pytest.approx([(2 * 0.5 + 2.0) / 3]) and points[1].prompts == [0]
    assert points[2].proxies == [0.9]
    assert best_of_n.doublings(1) == [1] and best_of_n.doublings(64) == [1, 2, 4, 8, 16, 32, 64]


def test_the_curve_of_rounds_is_over_the_root_of_kl_and_starts_at_the_least():
    law = Law(RL, 1.5, 0.7)
    kls = [0.0, 1.0, 4.0, 9.0, 25.0]
    rounds: list[dict[str, object]] = [
        {"round": i, "kl_reference_k1": kl, "gold": 0.5 + law.gain(math.sqrt(kl)), "proxy": float(i)}
        for i, kl in enumerate(kls, start=1)
    ]
    curve = curve_of_rounds([*rounds, {"round": 6, "kl_reference_k1": 30.0}])  # gold was not measured there
    assert curve is not None
    assert [point["distance"] for point in curve["points"]] == [0.0, 1.0, 2.0, 3.0, 5.0]
    assert curve["gold_at_start"] == 0.5
    assert curve["law"]["alpha"] == pytest.approx(1.5) and curve["law"]["beta"] == pytest.approx(0.7)
    assert curve["law"]["peak_distance"] == pytest.approx(math.exp(1.5 / 0.7 - 1))
    assert curve["law"]["peak_measured"] is True
    assert curve_of_rounds(rounds[:1]) is None
