"""Equalities that hold for every batch: padding, absent rows, accumulation, the first minibatch."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.trainer.advantages import (
    explained_variance,
    fit_normalisation,
    gae,
    kl_estimate,
    sequence_sum,
    token_rewards,
    whiten,
)
from services.trainer.ppo_loss import (
    importance_weights,
    policy_loss,
    sampler_mismatch,
    value_loss,
)

CLIP, DUAL_CLIP = 0.2, 3.0
batches = st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(0, 2**32 - 1))


def random_batch(rows, width, seed, dtype=torch.float32):
    """Columns of a batch of ragged responses, each with at least one token, and their mask."""
    generator = torch.Generator().manual_seed(seed)
    names = ("new", "old", "sampler", "reference", "values", "new_values", "rewards")
    columns = {name: torch.randn(rows, width, generator=generator, dtype=dtype) for name in names}
    lengths = torch.randint(1, width + 1, (rows, 1), generator=generator)
    return columns, torch.arange(width) < lengths


def everything_ppo_computes(columns, mask):
    """Every number of the mathematics that a batch gives, and the gradients."""
    new, new_values = (columns[name].clone().requires_grad_() for name in ("new", "new_values"))
    kl = kl_estimate(columns["old"], columns["reference"], "k3")
    scores = columns["rewards"][:, 0]
    rewards = token_rewards(scores, kl, mask, 0.05)
    advantages, returns = gae(rewards, columns["values"], mask, 0.99, 0.95)
    whitened = whiten(advantages, mask)
    weights = importance_weights(columns["old"], columns["sampler"], mask, 2.0)
    policy, policy_sums = policy_loss(new, columns["old"], whitened, mask, CLIP, DUAL_CLIP, weights)
    value, value_sums = value_loss(new_values, columns["values"], returns, mask, CLIP)
    (policy + value).backward()
    per_token = [rewards, advantages, returns, whitened, new.grad, new_values.grad]
    mismatch = sampler_mismatch(columns["old"], columns["sampler"], mask)
    return (
        [x[mask] for x in per_token],
        [policy.detach(), value.detach(), sequence_sum(kl, mask)],
        [policy_sums.means(), value_sums.means(), mismatch],
        explained_variance(returns, columns["values"], mask).nan_to_num(9.0),
    )


def identical(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(identical(x, y) for x, y in zip(a, b, strict=True))
    return a == b


@settings(max_examples=60, deadline=None)
@given(batches, st.integers(1, 50), st.sampled_from([0.0, 1e30, math.nan, -math.inf]))
def test_more_padding_whatever_it_holds_leaves_every_bit_as_it_is(batch, extra, rubbish):
    columns, mask = random_batch(*batch)
    columns = {name: torch.where(mask, x, 0.0) for name, x in columns.items()}
    wider = {name: torch.where(mask, x, rubbish) for name, x in columns.items()}
    wider = {name: torch.nn.functional.pad(x, (0, extra), value=rubbish) for name, x in wider.items()}
    wide_mask = torch.nn.functional.pad(mask, (0, extra))
    assert identical(everything_ppo_computes(columns, mask), everything_ppo_computes(wider, wide_mask))


@settings(max_examples=60, deadline=None)
@given(batches, st.data())
def test_a_row_that_is_masked_out_leaves_every_bit_as_if_it_were_absent(batch, data):
    columns, mask = random_batch(*batch)
    absent = data.draw(st.integers(0, len(mask)))
    present = [row for row in range(len(mask) + 1) if row != absent]

    def with_a_bad_row(x, filler):
        widened = torch.full((len(x) + 1, x.shape[1]), filler, dtype=x.dtype)
        widened[present] = x
        return widened

    bad = {name: with_a_bad_row(x, math.nan) for name, x in columns.items()}
    bad_mask = with_a_bad_row(mask, False)
    tokens, sums, means, explained = everything_ppo_computes(bad, bad_mask)
    sums[2] = sums[2][present]
    assert identical((tokens, sums, means, explained), everything_ppo_computes(columns, mask))


@settings(max_examples=40, deadline=None)
@given(batches, st.integers(1, 4))
def test_micro_batches_add_up_to_the_whole_minibatch(batch, size):
    columns, mask = random_batch(*batch, dtype=torch.float64)
    count = int(mask.sum())

    def run(rows):
        new, new_values = (columns[name][rows].clone().requires_grad_() for name in ("new", "new_values"))
        old, values, advantages = (columns[name][rows] for name in ("old", "values", "rewards"))
        policy, sums = policy_loss(new, old, advantages, mask[rows], CLIP, DUAL_CLIP, token_count=count)
        value, value_sums = value_loss(new_values, values, advantages, mask[rows], CLIP, token_count=count)
        (policy + value).backward()
        return (policy + value).item(), torch.cat([new.grad, new_values.grad], -1), sums, value_sums

    loss, gradient, sums, value_sums = run(slice(None))
    parts = [run(slice(start, start + size)) for start in range(0, len(mask), size)]
    assert sum(part[0] for part in parts) == pytest.approx(loss, rel=1e-6, abs=1e-12)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), gradient, rtol=1e-6, atol=1e-12)
    for whole, which in ((sums, 2), (value_sums, 3)):
        added = parts[0][which]
        for part in parts[1:]:
            added = added + part[which]
        assert added.means() == pytest.approx(whole.means(), rel=1e-6, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(batches)
def test_on_the_first_minibatch_the_ratio_is_1_and_the_loss_is_minus_the_mean_advantage(batch):
    columns, mask = random_batch(*batch)
    loss, sums = policy_loss(columns["old"], columns["old"], columns["rewards"], mask, CLIP, DUAL_CLIP)
    assert loss == -columns["rewards"][mask].sum() / int(mask.sum())
    means = sums.means()
    assert (means["ratio_mean"], means["ratio_variance"], means["approx_kl"]) == (1.0, 0.0, 0.0)
    assert (means["clip_fraction"], means["dual_clip_fraction"], means["approx_kl_k3"]) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("constant", [0.0, 1.0, -3.3, 1e6])
@pytest.mark.parametrize("noise", [0.0, 1e-6])
def test_whitening_does_not_blow_rounding_up_into_a_signal(constant, noise):
    x = torch.full((4, 8), constant) * (
        1 + noise * torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    )
    mask = torch.ones_like(x, dtype=torch.bool)
    assert torch.equal(whiten(x, mask), torch.zeros_like(x))
    assert torch.equal(whiten(x, mask, shift_mean=False), x)


def test_whitening_gives_variance_1_as_soon_as_there_is_a_signal():
    x = torch.tensor([[1.0, 1.001, 1.002]])
    whitened = whiten(x, torch.ones_like(x, dtype=torch.bool))
    assert whitened.var(correction=0).item() == pytest.approx(1, rel=0.02)


def test_a_response_without_tokens_gets_no_reward():
    mask = torch.tensor([[False, False], [True, False]])
    rewards = token_rewards(torch.tensor([5.0, 7.0]), torch.zeros(2, 2), mask, 0.1)
    assert rewards.tolist() == [[0.0, 0.0], [7.0, 0.0]]


def test_a_log_ratio_beyond_float32_keeps_loss_and_gradient_finite():
    new = torch.tensor([[0.0, -1.0]]).requires_grad_()
    old, advantages = torch.tensor([[-500.0, -1.0]]), torch.tensor([[0.0, 1.0]])
    loss, sums = policy_loss(new, old, advantages, torch.ones(1, 2, dtype=torch.bool), CLIP, 0)
    loss.backward()
    assert loss.isfinite() and new.grad.isfinite().all()
    assert all(math.isfinite(x) for x in sums.means().values())


def test_importance_weights_scale_each_tokens_loss_and_take_no_gradient():
    new = torch.tensor([[0.1, -0.1]]).requires_grad_()
    weights = torch.tensor([[2.0, 0.5]]).requires_grad_()
    old, advantages, mask = torch.zeros(1, 2), torch.tensor([[1.0, -3.0]]), torch.ones(1, 2, dtype=torch.bool)
    loss, _ = policy_loss(new, old, advantages, mask, CLIP, 0, weights)
    loss.backward()
    assert loss.item() == pytest.approx(-(2 * math.exp(0.1) - 0.5 * 3 * math.exp(-0.1)) / 2)
    assert new.grad[0].tolist() == pytest.approx([-math.exp(0.1), 0.75 * math.exp(-0.1)])
    assert weights.grad is None


def test_ratio_moments_are_those_of_the_ratios_themselves():
    ratios = torch.tensor([[0.5, 1.5, 2.5]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    means = policy_loss(ratios.log(), torch.zeros(1, 3), torch.ones(1, 3), mask, CLIP, 0)[1].means()
    assert means["ratio_mean"] == pytest.approx(1.5)
    assert means["ratio_variance"] == pytest.approx(2 / 3)
    assert means["approx_kl"] == pytest.approx(0.5 * (ratios.log() ** 2).mean().item())
    assert means["approx_kl_k3"] == pytest.approx((ratios - 1 - ratios.log()).mean().item())


def test_values_that_moved_less_than_the_clip_range_are_never_counted_as_clipped():
    """old + (new - old) is not always new: among so many, rounding alone looks like clipping."""
    columns, mask = random_batch(200, 200, seed=0)
    old, new = 0.09 * columns["values"].tanh(), 0.09 * columns["new_values"].tanh()
    assert (old + (new - old) != new).any()
    assert value_loss(new, old, columns["rewards"], mask, CLIP)[1].clipped == 0


def test_a_value_clip_of_zero_is_off():
    new, old, returns = torch.tensor([[9.0]]), torch.tensor([[0.0]]), torch.tensor([[1.0]])
    mask = torch.ones(1, 1, dtype=torch.bool)
    assert value_loss(new, old, returns, mask, 0)[0] == 32.0
    assert value_loss(-new, old, -returns, mask, 0)[1].means()["clip_fraction"] == 0


def test_a_value_that_moved_too_far_the_right_way_is_held_and_counted():
    new, old, returns = torch.tensor([[1.0]]).requires_grad_(), torch.tensor([[0.0]]), torch.tensor([[1.0]])
    loss, sums = value_loss(new, old, returns, torch.ones(1, 1, dtype=torch.bool), 0.2)
    loss.backward()
    assert loss.item() == pytest.approx(0.5 * 0.8**2)
    assert new.grad.item() == 0 and sums.means()["clip_fraction"] == 1


def test_a_micro_batch_without_tokens_adds_nothing_and_a_minibatch_without_is_refused():
    x = torch.ones(2, 3).requires_grad_()
    mask = torch.zeros(2, 3, dtype=torch.bool)
    loss, sums = policy_loss(x, torch.ones(2, 3), torch.ones(2, 3), mask, CLIP, 0, token_count=6)
    loss.backward()
    assert loss == 0 and not x.grad.any() and sums.means() == {}
    with pytest.raises(ValueError, match="0 tokens bear no loss"):
        policy_loss(x, torch.ones(2, 3), torch.ones(2, 3), mask, CLIP, 0)


@pytest.mark.parametrize("scores", [[], [1.0, 1.0], [0.0, math.nan]])
def test_a_normalisation_that_does_not_exist_is_refused(scores):
    with pytest.raises(ValueError, match="fit_normalisation"):
        fit_normalisation(torch.tensor(scores), 0.0, 1.0)


def test_an_unknown_estimator_is_refused_by_name():
    with pytest.raises(ValueError, match="kl_estimator: 'k4' is not one of k1, k2, k3"):
        kl_estimate(torch.zeros(1), torch.zeros(1), "k4")
