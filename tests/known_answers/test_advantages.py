"""Published answers B1 to B18: KL, rewards, advantages and their statistics."""

import math

import pytest
import torch

from services.trainer.advantages import (
    explained_variance,
    fit_normalisation,
    gae,
    kl_estimate,
    missing_end_penalty,
    sequence_sum,
    token_rewards,
    whiten,
)
from services.trainer.ppo_loss import policy_loss


def everything(x):
    return torch.ones_like(x, dtype=torch.bool)


@pytest.mark.known_answer("B1")
def test_the_mock_calculation_of_course_notes_comes_out_from_score_to_loss(tensor, close):
    policy, reference = tensor([[0.5, 0.6]]).log(), tensor([[0.5, 0.5]]).log()
    values = tensor([[0.5, 1.2]])
    kl = kl_estimate(policy, reference, "k1")
    rewards = token_rewards(tensor([2.0]), kl, everything(kl), 0.1)
    close(rewards, [[0.0, 1.9817678443206046]])
    advantages, returns = gae(rewards, values, everything(kl), gamma=1, lam=0.95)
    close(advantages, [[1.4426794521045743, 0.7817678443206046]])
    close(returns, [[1.9426794521045743, 1.9817678443206046]])

    def loss_of_the_first_token(ratio):
        one = advantages[:, :1]
        return policy_loss(tensor([[math.log(ratio)]]), one * 0, one, everything(one), 0.2, 0)[0]

    close(loss_of_the_first_token(1.1), -1.5869473973150319)
    close(loss_of_the_first_token(1.4), -1.731215342525489)


POLICY, REFERENCE = [[-1.2, -0.7, -2.0, -0.3]], [[-1.0, -1.1, -1.5, -0.6]]
MASK = torch.tensor([[True, True, True, False]])
VALUES = [[0.3, 0.6, 0.9, 7.0]]


@pytest.mark.known_answer("B2")
def test_rewards_hold_the_kl_of_every_token_and_the_score_at_the_last(tensor, close):
    kl = kl_estimate(tensor(POLICY), tensor(REFERENCE), "k1")
    close(kl, [[-0.2, 0.4, -0.5, 0.3]])
    close(sequence_sum(kl, MASK), [-0.3])
    rewards = token_rewards(tensor([1.5]), kl, MASK, 0.05)
    close(rewards, [[0.01, -0.02, 1.525, 0.0]])
    close(rewards.sum(), 1.5 - 0.05 * -0.3)


@pytest.mark.known_answer("B2")
@pytest.mark.parametrize(
    ("gamma", "lam", "expected"),
    [
        (1, 0.95, [1.1400625, 0.87375, 0.625, 0.0]),
        (0.99, 0.95, [1.11171315625, 0.8588125, 0.625, 0.0]),
        (1, 1, [1.215, 0.905, 0.625, 0.0]),
        (1, 0, [0.31, 0.28, 0.625, 0.0]),
    ],
)
def test_advantages_do_not_see_the_value_at_a_pad(tensor, close, gamma, lam, expected):
    advantages, returns = gae(tensor([[0.01, -0.02, 1.525, 0.0]]), tensor(VALUES), MASK, gamma, lam)
    close(advantages, [expected])
    close(returns, torch.where(MASK, tensor([expected]) + tensor(VALUES), 0.0))


X = [[1.2, 1.3, 1.4], [1.5, 1.6, 1.7], [1.8, 1.9, 2.0]]


@pytest.mark.known_answer("B3")
def test_whitening_divides_by_the_biased_standard_deviation(tensor, close):
    x = tensor(X)
    shifted = [
        [-1.54919322229348, -1.1618949167201098, -0.7745966111467405],
        [-0.38729830557337025, 0.0, 0.38729830557336936],
        [0.7745966111467396, 1.161894916720109, 1.5491932222934792],
    ]
    close(whiten(x, everything(x)), shifted)
    keep_mean = [
        [0.05080677770651998, 0.4381050832798903, 0.8254033888532596],
        [1.2127016944266298, 1.6, 1.9872983055733695],
        [2.37459661114674, 2.761894916720109, 3.149193222293479],
    ]
    close(whiten(x, everything(x), shift_mean=False), keep_mean)


@pytest.mark.known_answer("B4")
def test_whitening_counts_valid_tokens_only(tensor, close):
    advantages = tensor([[1.1400625, 0.87375, 0.625, 0.0]])
    close(whiten(advantages, MASK), [[1.2384251467326175, -0.027835343643566504, -1.2105898030890516, 0.0]])


PI, REF = [0.5, 0.3, 0.2], [0.4, 0.4, 0.2]


@pytest.mark.known_answer("B6")
@pytest.mark.parametrize(
    ("estimator", "values", "expectation", "stddev"),
    [
        ("k1", [0.2231435513142097, -0.287682072451781, 0.0], 0.025267153921570557, 0.22155447551856824),
        ("k2", [0.02489652224655867, 0.04138048740507589, 0.0], 0.0248624073448021, 0.01433466192040535),
        ("k3", [0.023143551314209754, 0.04565126088155241, 0.0], 0.025267153921570598, 0.01595600834930393),
    ],
)
def test_kl_estimates_have_the_published_values_means_and_spreads(
    tensor, close, estimator, values, expectation, stddev
):
    pi = tensor(PI)
    estimate = kl_estimate(pi.log(), tensor(REF).log(), estimator)
    close(estimate, values)
    mean = (pi * estimate).sum()
    close(mean, expectation)
    close((pi * (estimate - mean) ** 2).sum().sqrt(), stddev)


@pytest.mark.known_answer("B7")
@pytest.mark.parametrize(
    ("estimator", "free", "held"),
    [
        ("k1", [-1.0, 14.0, 29.0], [-1.0, 10.0, 10.0]),
        ("k2", [0.5, 98.0, 420.5], [0.5, 10.0, 10.0]),
        ("k3", [0.7182818284590451, 13.00000083152872, 28.000000000000256], [0.7182818284590451, 10.0, 10.0]),
    ],
)
def test_kl_estimates_agree_with_a_third_partys_free_and_held(tensor, close, estimator, free, held):
    policy, reference = tensor([-1.0, -1.0, -1.0]), tensor([0.0, -15.0, -30.0])
    close(kl_estimate(policy, reference, estimator), free)
    close(kl_estimate(policy, reference, estimator, log_ratio_limit=20, estimate_limit=10), held)


@pytest.mark.known_answer("B11")
def test_advantages_agree_with_two_third_parties(tensor, close):
    values, rewards = tensor([[0.0, 1.0, 2.0, 3.0]]), tensor([[0.0, 0.0, 1.0, 0.0]])
    close(gae(rewards, values, everything(values), gamma=0.5, lam=0)[0], [[0.5, 0.0, 0.5, -3.0]])
    values, rewards = tensor([[1.0, 2.0, 3.0]]), tensor([[0.0, 0.0, 5.0]])
    close(gae(rewards, values, everything(values), gamma=1, lam=0)[0], [[1.0, 1.0, 2.0]])


@pytest.mark.known_answer("B11")
def test_a_masked_gap_inside_a_response_does_not_change_the_other_advantages(tensor, close):
    values, rewards = tensor([[0.1, 0.2, 999.0, 0.4, 0.5]]), tensor([[0.0, 0.0, 0.0, 0.0, 1.0]])
    mask = torch.tensor([[True, True, False, True, True]])
    with_gap, _ = gae(rewards, values, mask, gamma=0.99, lam=0.95)
    close(with_gap, [[0.7823243763125, 0.727617625, 0.0, 0.56525, 0.5]])
    without = gae(rewards[mask][None], values[mask][None], mask[mask][None], gamma=0.99, lam=0.95)[0]
    assert torch.equal(with_gap[mask], without[0])


@pytest.mark.known_answer("B16")
def test_explained_variance_is_the_published_one(tensor, close):
    returns, values = tensor([[1.0, 2.0, 3.0, 4.0]]), tensor([[1.5, 1.5, 3.5, 3.5]])
    close(explained_variance(returns, values, everything(returns)), 0.8)


@pytest.mark.known_answer("B17")
def test_scores_are_normalised_by_the_fitted_gain_and_bias(tensor, close):
    scores = tensor([0.0, 1.0, 2.0, 5.0])
    gain, bias = fit_normalisation(scores, target_mean=0, target_stddev=1)
    close([gain, bias], [0.5345224838248488, -1.0690449676496976])
    normalised = [-1.0690449676496976, -0.5345224838248488, 0.0, 1.6035674514745462]
    close(gain * scores + bias, normalised)


@pytest.mark.known_answer("B18")
def test_a_missing_end_takes_the_penalty_from_the_score(tensor, close):
    has_end = torch.tensor([True, False])
    close(missing_end_penalty(tensor([1.3, 0.8]), has_end, 1.0), [1.3, -0.2])
