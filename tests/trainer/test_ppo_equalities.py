"""The equalities that guard a PPO round: what must not change its result does not."""

import pytest
import torch

from services.progress import ProgressFeed
from services.sequences import response_logprobs
from services.trainer.batches import response_values
from services.trainer.device import Compute
from services.trainer.rounds import round_of, schedule_of
from services.trainer.stages import build_stage
from services.trainer.wire import plan_from_pb, rollouts_from_pb
from tests.trainer.wiring import (
    OPTIMIZER,
    begin_request,
    one_ppo_step,
    ppo_request,
    rollouts_of,
    trainer,
    two_models,
)
from trueline.v1 import trainer_pb2 as pb

FAST = {"policy_optimizer": {**OPTIMIZER, "learning_rate": 5e-3, "schedule": "constant"}}


def stage_in(tmp_path, **settings):
    request = begin_request(tmp_path, "ppo", settings)
    return build_stage(plan_from_pb(request), Compute(torch.device("cpu")), ProgressFeed())[0]


async def test_the_ratio_is_exactly_1_on_the_first_minibatch(tmp_path, start):
    rollouts = rollouts_of(start, start, 9, temperature=0.7)
    result = await one_ppo_step(tmp_path, rollouts, epochs=1, minibatches=1, micro_batch_size=2)
    expected = {
        "ratio_mean": 1.0,
        "ratio_variance": 0.0,
        "kl_update": 0.0,
        "clip_fraction": 0.0,
        "updates": 1.0,
    }
    assert {name: result.metrics[name] for name in expected} == expected


async def test_with_more_updates_the_ratio_moves(tmp_path, start):
    result = await one_ppo_step(tmp_path, rollouts_of(start, start, 9), epochs=3, **FAST)
    assert result.metrics["kl_update"] > 0 and result.metrics["clip_fraction"] > 0


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.3])
async def test_before_any_update_the_trainers_log_probs_are_the_samplers(tmp_path, start, temperature):
    rollouts = rollouts_of(start, start, 9, temperature=temperature)
    result = await one_ppo_step(tmp_path, rollouts)
    largest = max(abs(x) for rollout in rollouts for x in rollout.policy_logprobs)
    assert result.metrics["mismatch_largest"] <= 1e-5 * max(1, largest)
    assert result.metrics["mismatch_ess"] == pytest.approx(1, abs=1e-5)
    assert abs(result.metrics["kl_reference_k1"]) < 1e-4


def gradients(learner):
    return torch.cat([p.grad.flatten() for p in learner.parameters.values() if p.grad is not None])


def accumulated(stage, batch, micro_batch_size):
    """(policy gradient, critic gradient) of one minibatch that holds the whole round."""
    schedule = schedule_of(batch, 1, 1, micro_batch_size, seed=3, step=0)
    (_, minibatch), *_ = schedule.minibatches()
    old, _ = stage.policy.old_logprobs(batch, schedule, keep_first=False)
    advantages = torch.linspace(-1, 1, old.numel()).view_as(old)
    stage.policy.learner.forget_moments()
    stage.critic.learner.forget_moments()
    stage.policy.accumulate(batch, minibatch, old, advantages, torch.full_like(old, 0.9))
    stage.critic.accumulate(batch, minibatch, torch.zeros_like(old), advantages)
    return gradients(stage.policy.learner), gradients(stage.critic.learner)


@pytest.mark.parametrize("entropy_coefficient", [0.0, 0.5])
def test_accumulated_micro_batches_have_the_gradient_of_the_whole_minibatch(
    tmp_path, start, entropy_coefficient
):
    stage = stage_in(tmp_path, entropy_coefficient=entropy_coefficient)
    batch = pb.PpoBatch(rollouts=rollouts_of(start, start, 8, lengths=[1, 10, 3, 7, 2, 9, 4, 6]))
    tensors = round_of(rollouts_from_pb(batch), torch.device("cpu"))
    whole, parts = accumulated(stage, tensors, 64), accumulated(stage, tensors, 3)
    for expected, found in zip(whole, parts, strict=True):
        assert (found - expected).norm() <= 1e-5 * expected.norm()


def test_more_padding_changes_neither_log_probs_nor_values(tmp_path, start):
    stage = stage_in(tmp_path)
    prompt, response = [1, 9, 4], [7, 8, 2]
    longer_prompt, longer_response = [1, *range(5, 25), 4], [*range(20, 40), 2]
    with torch.no_grad():
        for function, model in (
            (lambda *rows: response_logprobs(*rows[:3], 1.0, 0), stage.loaded.model),
            (lambda *rows: response_values(*rows, 0), stage.critic.loaded.model),
        ):
            alone, mask = function(model, [prompt], [response])
            padded, padded_mask = function(model, [prompt, longer_prompt], [response, longer_response])
            assert mask.tolist() == [[True] * 3]
            assert padded_mask[0].tolist() == [True] * 3 + [False] * 18
            torch.testing.assert_close(padded[0, :3], alone[0], rtol=1e-5, atol=1e-5)
            assert not padded[0, 3:].any()


def test_a_value_stands_where_its_token_is_about_to_be_written(tmp_path, start):
    critic = stage_in(tmp_path).critic.loaded.model
    prompts, responses = [[1, 9, 4], [1, 4]], [[7, 8, 2], [6, 5]]
    with torch.no_grad():
        values_BR, _ = response_values(critic, prompts, responses, 0)
        for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            everywhere = critic.forward_positions(torch.tensor([prompt + response]))[0]
            expected = everywhere[len(prompt) - 1 : len(prompt) + len(response) - 1]
            torch.testing.assert_close(values_BR[row, : len(response)], expected, rtol=1e-5, atol=1e-5)


async def test_two_threads_give_the_bits_of_one_after_the_other(tmp_path, start):
    rollouts = rollouts_of(start, start, 12)
    together = await one_ppo_step(tmp_path, rollouts, threads=2)
    apart = await one_ppo_step(tmp_path, rollouts, threads=2, side_by_side=False)
    assert together.weights_sha256 == apart.weights_sha256
    assert dict(together.metrics) == dict(apart.metrics)


async def test_the_same_batch_gives_the_same_bits_and_another_seed_others(tmp_path, start):
    rollouts = rollouts_of(start, start, 12)
    digests = set()
    for seed in (7, 7, 8):
        async with trainer() as client:
            await client.begin_stage(begin_request(tmp_path, "ppo", seed=seed, models=two_models(tmp_path)))
            digests.add((await client.ppo_step(ppo_request(rollouts))).weights_sha256)
    assert len(digests) == 2
