"""Published answers B5 and F13: the adaptive KL coefficient and the KL budget."""

import math

import pytest

from services.trainer.kl_control import AdaptiveKl, FixedKl, KlBudget

SEQUENCE_KL = [0.0, 3.0, 6.0, 6.3, 7.2, 12.0, 60.0]
COEFFICIENTS = [
    0.14846399999999998,
    0.14694372864,
    0.14694372864,
    0.14731990458531838,
    0.14882846040827205,
    0.15035246384285275,
    0.15189207307260358,
]


@pytest.mark.known_answer("B5")
def test_the_adaptive_coefficient_follows_the_published_path():
    controller = AdaptiveKl(0.15, target=6.0, horizon=10_000)
    path = [controller.update(kl, episodes=512) for kl in SEQUENCE_KL]
    assert path == pytest.approx(COEFFICIENTS, rel=1e-12)


@pytest.mark.known_answer("B5")
@pytest.mark.parametrize(("kl", "multiplier"), [(1e9, 1.01024), (-1e9, 0.98976)])
def test_one_round_moves_the_coefficient_by_a_bounded_factor(kl, multiplier):
    assert AdaptiveKl(1.0, 6.0, 10_000).update(kl, 512) == pytest.approx(multiplier, rel=1e-12)


def test_an_adaptive_coefficient_goes_on_from_its_saved_state():
    first = AdaptiveKl(0.15, 6.0, 10_000)
    for kl in SEQUENCE_KL[:3]:
        first.update(kl, 512)
    second = AdaptiveKl(99.0, 6.0, 10_000)
    second.load_state_dict(first.state_dict())
    assert [second.update(kl, 512) for kl in SEQUENCE_KL[3:]] == pytest.approx(COEFFICIENTS[3:], rel=1e-12)


def test_a_fixed_coefficient_stays():
    assert FixedKl(0.05).update(60.0, 512) == 0.05


def test_a_horizon_that_could_turn_the_coefficient_negative_is_refused():
    with pytest.raises(ValueError, match="kl_horizon: 100 is too short for rounds of 512 episodes"):
        AdaptiveKl(0.15, 6.0, 100).update(0.0, 512)


@pytest.mark.known_answer("F13")
def test_the_budget_warns_then_stops_and_stays_stopped():
    budget = KlBudget(soft=8.0, hard=12.0)
    actions = [budget.observe(kl) for kl in [1.0, 3.0, 6.0, 9.0, 13.0, 11.0]]
    assert actions == ["ok", "ok", "ok", "warn", "stop", "stopped"]


@pytest.mark.known_answer("F13")
def test_a_stopped_budget_is_still_stopped_after_a_restart():
    first, second = KlBudget(8.0, 12.0), KlBudget(8.0, 12.0)
    first.observe(12.0)
    second.load_state_dict(first.state_dict())
    assert second.observe(1.0) == "stopped"


def test_a_budget_of_zero_is_off():
    assert KlBudget(soft=0, hard=0).observe(1e9) == "ok"


@pytest.mark.parametrize("kl", [math.nan, math.inf])
@pytest.mark.parametrize("take", [FixedKl(0.1).update, AdaptiveKl(0.1, 6, 1e4).update, None])
def test_a_kl_that_is_not_finite_is_refused(kl, take):
    with pytest.raises(ValueError, match="is not finite"):
        take(kl, 32) if take else KlBudget(8, 12).observe(kl)
