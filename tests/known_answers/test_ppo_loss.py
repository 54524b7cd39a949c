"""Published answers B9, B10, B14, C1, C2 and C7: the losses of PPO and the sampler's mismatch."""

import math

import pytest
import torch

from services.trainer.ppo_loss import importance_weights, policy_loss, sampler_mismatch, token_mean

CASES = [(1, 0.5), (1, 1.1), (1, 1.5), (-1, 0.5), (-1, 1.1), (-1, 1.5), (-1, 5.0)]


def everything(x):
    return torch.ones_like(x, dtype=torch.bool)


def loss_and_gradient(tensor, advantage, ratio, dual_clip=0.0):
    """Of one token whose old log-prob is 0."""
    new = tensor([[math.log(ratio)]]).requires_grad_()
    old = tensor([[0.0]])
    loss, diagnostics = policy_loss(new, old, tensor([[float(advantage)]]), everything(old), 0.2, dual_clip)
    loss.backward()
    return loss.item(), new.grad.item(), diagnostics.means()


@pytest.mark.known_answer("B9")
@pytest.mark.parametrize(
    ("case", "loss", "gradient"),
    list(
        zip(CASES, [-0.5, -1.1, -1.2, 0.8, 1.1, 1.5, 5.0], [-0.5, -1.1, 0.0, 0.0, 1.1, 1.5, 5.0], strict=True)
    ),
)
def test_the_ratio_clip_stops_the_gradient_only_where_the_policy_already_moved(
    tensor, close, case, loss, gradient
):
    *actual, means = loss_and_gradient(tensor, *case)
    close(actual, [loss, gradient])
    assert means["clip_fraction"] == (gradient == 0)


@pytest.mark.known_answer("B9")
@pytest.mark.parametrize(
    ("case", "loss", "gradient"),
    list(
        zip(CASES, [-0.5, -1.1, -1.2, 0.8, 1.1, 1.5, 3.0], [-0.5, -1.1, 0.0, 0.0, 1.1, 1.5, 0.0], strict=True)
    ),
)
def test_the_dual_clip_bounds_what_a_bad_token_can_cost(tensor, close, case, loss, gradient):
    *actual, means = loss_and_gradient(tensor, *case, dual_clip=3.0)
    close(actual, [loss, gradient])
    assert means["dual_clip_fraction"] == (case == (-1, 5.0))


@pytest.mark.known_answer("B10")
@pytest.mark.parametrize(
    ("advantages", "ratios", "dual_clip", "losses", "mean"),
    [
        ([1.0, -1.0, 2.0], [0.5, 1.0, 1.5], 0.0, [-0.5, 1.0, -2.4], -0.6333333333333333),
        ([1.0, -1.0, -4.0], [0.5, 1.0, 10.0], 3.0, [-0.5, 1.0, 12.0], 4.166666666666667),
    ],
)
def test_the_loss_agrees_with_a_third_party(tensor, close, advantages, ratios, dual_clip, losses, mean):
    new, old = tensor([ratios]).log(), tensor([[0.0] * 3])
    close(policy_loss(new, old, tensor([advantages]), everything(old), 0.2, dual_clip)[0], mean)
    for one, loss in enumerate(losses):
        only = torch.zeros(1, 3, dtype=torch.bool)
        only[0, one] = True
        close(policy_loss(new, old, tensor([advantages]), only, 0.2, dual_clip)[0], loss)


PER_TOKEN = [[1.0, 2.0, 3.0, 0.0], [4.0, 0.0, 0.0, 0.0]]
PER_TOKEN_MASK = torch.tensor([[True, True, True, False], [True, False, False, False]])


@pytest.mark.known_answer("B14")
def test_losses_are_means_over_the_tokens_of_the_whole_minibatch(tensor, close):
    close(token_mean(tensor(PER_TOKEN), PER_TOKEN_MASK), 2.5)
    rows = [
        token_mean(tensor([row]), mask[None], 4) for row, mask in zip(PER_TOKEN, PER_TOKEN_MASK, strict=True)
    ]
    close(sum(rows), 2.5)


TRAINER, SAMPLER = [[-1.0, -2.0, -0.5, -3.0]], [[-1.2, -1.5, -0.5, -4.5]]


@pytest.mark.known_answer("C1")
def test_importance_weights_are_ratios_truncated_at_the_cap(tensor, close):
    trainer, sampler = tensor(TRAINER), tensor(SAMPLER)
    weights = importance_weights(trainer, sampler, everything(trainer), cap=2.0)
    close(weights, [[1.2214027581601699, 0.6065306597126334, 1.0, 2.0]])
    weights = importance_weights(trainer, sampler, everything(trainer), cap=100.0)
    close(weights, [[1.2214027581601699, 0.6065306597126334, 1.0, 4.4816890703380645]])


@pytest.mark.known_answer("C1")
def test_mismatch_is_reported_as_k1_k3_and_effective_sample_size(tensor, close):
    mismatch = sampler_mismatch(tensor(TRAINER), tensor(SAMPLER), everything(tensor(TRAINER)))
    close(mismatch.k1, -0.3)
    close(mismatch.k3, 0.5274056220527169)
    close(mismatch.effective_sample_size, 0.5821531878416877)
    close(mismatch.largest_difference, 1.5)


@pytest.mark.known_answer("C2")
@pytest.mark.parametrize(("length", "product"), [(10, 2.5937424601000023), (100, 13780.61233982238)])
def test_weights_are_per_token_and_do_not_grow_with_length_as_their_product_does(
    tensor, close, length, product
):
    trainer = tensor([[math.log(1.1)] * length])
    weights = importance_weights(trainer, trainer * 0, everything(trainer), cap=2.0)
    close(weights, [[1.1] * length])
    close(weights.log().sum() / math.log(product), 1.0)


@pytest.mark.known_answer("C7")
def test_weights_agree_with_a_third_party(tensor, close):
    trainer, sampler = tensor([[-2.0, -2.0]]), tensor([[-1.0, -2.5]])
    weights = importance_weights(trainer, sampler, everything(trainer), cap=2.0)
    close(weights, [[0.36787944117144233, 1.6487212707001282]])
