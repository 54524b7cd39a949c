"""The log-probs of sampler, reference and trainer are of one distribution, service against service."""

from pathlib import Path

import pytest

from tests.model_services import asked, policy_service, reference_service, sampling
from tests.tiny_models import write_tiny_model
from tests.trainer.wiring import begin_request, header, trainer
from trueline.v1 import trainer_pb2, types_pb2


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.3])
async def test_policy_logprobs_equal_the_trainers_before_any_update(
    tmp_path: Path, temperature: float
) -> None:
    """Generated with a cache and left padding, recomputed without: within 1e-5 * max(1, |log-prob|)."""
    write_tiny_model(tmp_path / "start", "llama", seed=1)
    prompts = asked([5, 6, 7], [8, 9, 10, 11, 12], [13], samples=8)
    async with (
        policy_service(model=tmp_path / "start") as (policy, _),
        reference_service(model=tmp_path / "start") as (reference, _),
        trainer() as client,
    ):
        settings = sampling(temperature=temperature, max_new_tokens=24, seed=3)
        rollouts = (await policy.generate(prompts=prompts, sampling=settings)).rollouts
        rows = [
            types_pb2.LogprobRow(prompt_ids=each.prompt_ids, response_ids=each.response_ids)
            for each in rollouts
        ]
        under_reference = await reference.compute_logprobs(rows=rows, temperature=temperature)
        for rollout, result in zip(rollouts, under_reference.results, strict=True):
            rollout.reference_logprobs[:] = result.logprobs
            rollout.reference_version.CopyFrom(under_reference.version)
            rollout.score.value.raw = rollout.score.value.normalised = float(rollout.sample_index)
            for sampled, again in zip(rollout.policy_logprobs, result.logprobs, strict=True):
                assert abs(sampled - again) <= 1e-5 * max(1.0, abs(sampled))
        await client.begin_stage(begin_request(tmp_path, "ppo", {"epochs": 1, "minibatches": 1}))
        result = await client.ppo_step(
            trainer_pb2.PpoStepRequest(header=header("step"), inline=trainer_pb2.PpoBatch(rollouts=rollouts))
        )
    assert result.metrics["rollouts"] == 24
    largest = max(abs(each) for rollout in rollouts for each in rollout.policy_logprobs)
    assert 0 <= result.metrics["mismatch_largest"] <= 1e-5 * max(1.0, largest)
    assert abs(result.metrics["kl_reference_k1"]) <= 1e-4, "the policy is the reference"
    assert result.metrics["clip_fraction"] == 0 and result.metrics["ratio_mean"] == pytest.approx(1, abs=1e-6)
