"""Published answers A8, D1 to D7: losses that learn from preferences without a reward model."""

import math

import pytest
import torch

from services.trainer import preference_losses as losses
from services.trainer.preference_losses import PREFERENCE_LOSSES, Coefficients, Pairs

LN_2 = 0.6931471805599453


@pytest.mark.known_answer("D1")
def test_the_mock_calculation_of_course_notes_comes_out(tensor, close):
    policy, reference = tensor([0.1, 0.2]).log(), tensor([0.1, 0.1]).log()
    delta = ((policy - reference)[0] - (policy - reference)[1]).requires_grad_()
    loss = losses.dpo(delta, beta=1)
    loss.backward()
    close(delta.detach(), -0.6931471805599453)
    close(loss.detach(), 1.0986122886681096)
    close(delta.grad, -0.6666666666666667)


@pytest.fixture
def pairs(tensor):
    """The one example that all published losses are computed on."""
    numbers = {"chosen_P": -12.0, "rejected_P": -15.0, "reference_chosen_P": -13.0}
    numbers |= {"reference_rejected_P": -14.0, "chosen_tokens_P": 6, "rejected_tokens_P": 10}
    numbers |= {"probability_P": 0.8, "margin_P": 0.0}
    return Pairs(**{name: tensor([value]) for name, value in numbers.items()}, baseline=tensor(0.3))


BETA = Coefficients(beta=0.1)
SMOOTHED = Coefficients(beta=0.1, label_smoothing=0.1)
PUBLISHED = [
    ("dpo", BETA, 0.5981388693815918),
    ("dpo", Coefficients(beta=0.1, nll=0.2), 0.9981388693815918),
    ("dpo_length_normalised", BETA, 0.6799027334818809),
    ("soft_dpo", BETA, 0.6381388693815918),
    ("cdpo", SMOOTHED, 0.6181388693815918),
    ("robust_dpo", SMOOTHED, 0.5731388693815918),
    ("gdpo", BETA, 0.6349461015956135),
    ("hinge", BETA, 0.8),
    ("ipo", BETA, 9.0),
    ("ipo_length_normalised", BETA, 22.404444444444444),
    ("kto", BETA, 0.47502641797314576),
    ("orpo", BETA, 2.1042057807927135),
    ("simpo", Coefficients(beta=2.5, simpo_margin=1.375), 2.694936199644973),
]


def test_every_loss_of_the_table_has_a_published_answer():
    assert {name for name, _, _ in PUBLISHED} == PREFERENCE_LOSSES.keys()


@pytest.mark.known_answer("D2")
@pytest.mark.parametrize(("name", "coefficients", "expected"), PUBLISHED)
def test_a_loss_is_the_published_one(close, pairs, name, coefficients, expected):
    close(losses.preference_loss(PREFERENCE_LOSSES[name], pairs, coefficients), [expected])


@pytest.mark.known_answer("D2")
def test_what_the_losses_are_made_of_is_as_published(tensor, close, pairs):
    close(pairs.delta_P, [2.0])
    close(pairs.delta_mean_P, [0.26666666666666666])
    chosen, rejected = losses.implicit_rewards(PREFERENCE_LOSSES["dpo"], pairs, 0.1)
    close(torch.cat([chosen, rejected, chosen - rejected]), [0.1, -0.1, 0.2])
    delta = pairs.delta_P.requires_grad_()
    losses.dpo(delta, 0.1).sum().backward()
    close(delta.grad, [-0.04501660026875221])
    certain = tensor([math.inf])  # a side that is beyond doubt adds nothing
    close(2 * losses.kto(tensor([1.0]), -certain, 0.3, 0.1), [0.48250714233361025])
    close(2 * losses.kto(certain, tensor([-1.0]), 0.3, 0.1), [0.4675456936126813])


@pytest.mark.known_answer("D3")
def test_a_soft_label_is_met_best_at_its_log_odds(tensor, close):
    delta = tensor([13.862943611198908]).requires_grad_()
    loss = losses.soft_dpo(delta, 0.8, 0.1)
    loss.sum().backward()
    close(loss.detach(), [0.5004024235381879])
    close(delta.grad, [0.0])


@pytest.mark.known_answer("A8")
def test_soft_labels_of_margins_are_those_of_rewards(tensor, close):
    close(losses.soft_dpo(tensor([8.0]), 0.7, 0.1), [0.6111006659477778])


@pytest.mark.known_answer("D5")
def test_at_the_closed_form_optimum_dpo_has_the_loss_of_the_true_rewards(tensor, close):
    reference, reward, beta = tensor([0.5, 0.3, 0.2]), tensor([1.0, 0.0, 2.0]), 0.5
    weights = reference * (reward / beta).exp()
    optimum = weights / weights.sum()
    close(weights.sum(), 14.914158056094173)
    close(optimum, [0.247719518297292, 0.02011511470320076, 0.7321653669995073])
    implicit = beta * (optimum / reference).log()
    close(implicit, [-0.3511554834496527, -1.3511554834496526, 0.6488445165503473])
    for better, worse in ((0, 1), (2, 0), (2, 1)):
        delta = (implicit[better] - implicit[worse]) / beta
        true = -torch.nn.functional.logsigmoid(reward[better] - reward[worse])
        close(losses.dpo(delta, beta), true)


@pytest.mark.known_answer("D7")
@pytest.mark.parametrize(
    ("name", "coefficients", "expected"),
    [
        ("dpo", BETA, LN_2),
        ("soft_dpo", BETA, LN_2),
        ("cdpo", SMOOTHED, LN_2),
        ("cdpo", Coefficients(beta=0.1, label_smoothing=0.4), LN_2),
        ("robust_dpo", SMOOTHED, LN_2),
        ("gdpo", BETA, LN_2),
        ("hinge", BETA, 1.0),
        ("ipo", BETA, 25.0),
        ("kto", BETA, 0.5),
    ],
)
def test_a_policy_that_is_its_reference_has_the_published_loss_and_no_margin(
    tensor, close, name, coefficients, expected
):
    logprobs = [tensor([-12.0]), tensor([-15.0])]
    same = Pairs(*logprobs, *logprobs, tensor([6.0]), tensor([10.0]), tensor([0.8]), tensor([0.0]))
    loss = PREFERENCE_LOSSES[name]
    close(losses.preference_loss(loss, same, coefficients), [expected])
    chosen, rejected = losses.implicit_rewards(loss, same, 0.1)
    assert (chosen - rejected).item() == 0


def test_a_margin_has_to_be_won_by(tensor, close):
    """The pair-loss answers A7: beta delta = 0.8, so that the loss is that of two rewards."""
    margins = tensor([1.0, 0.6666666666666666, 0.3333333333333333, 0.0])
    expected = [0.7981388693815918, 0.6287010919732595, 0.48679258105450585, 0.3711006659477777]
    close(losses.dpo(tensor([8.0] * 4), 0.1, margins), expected)
    close(losses.soft_dpo(tensor([8.0] * 4), 1.0, 0.1, margins), expected)


def test_the_baseline_is_a_mean_that_is_never_negative_and_has_no_gradient(tensor, close):
    ratios = tensor([1.0, -0.5, 0.4]).requires_grad_()
    baseline = losses.kto_baseline(ratios)
    close(baseline, 0.3)
    assert not baseline.requires_grad
    close(losses.kto_baseline(tensor([-1.0, 0.5])), 0.0)


def test_a_sure_response_has_a_finite_orpo_loss_and_gradient(tensor):
    chosen = tensor([0.0, -1e-30]).requires_grad_()
    loss = losses.orpo(chosen, tensor([-1.0, 0.0]), beta=0.1)
    loss.sum().backward()
    assert loss.isfinite().all() and chosen.grad.isfinite().all()
