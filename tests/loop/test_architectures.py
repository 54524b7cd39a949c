"""Each architecture through the services: SFT, publish, load, sample, PPO, publish, load again."""

from pathlib import Path

import pytest

from tests.model_services import asked, policy_service, reference_service, sampling
from tests.model_services import header as load_header
from tests.tiny_models import FAMILIES, write_tiny_model
from tests.trainer.wiring import begin_request, header, sft_request, sft_rows, trainer
from trueline import PolicyClient
from trueline.v1 import trainer_pb2, types_pb2


async def load(policy: PolicyClient, where: types_pb2.ModelLocation) -> None:
    served = await policy.load_weights(header=load_header(f"load/{where.uri}"), location=where)
    assert served.version == where.version


def rows_of(rollouts: list[types_pb2.Rollout]) -> list[types_pb2.LogprobRow]:
    return [
        types_pb2.LogprobRow(prompt_ids=each.prompt_ids, response_ids=each.response_ids) for each in rollouts
    ]


@pytest.mark.parametrize("family", FAMILIES)
async def test_an_architecture_trains_publishes_and_samples(tmp_path: Path, family: str) -> None:
    write_tiny_model(tmp_path / "start", family, seed=1)
    async with (
        trainer() as client,
        policy_service() as (policy, _),
        reference_service(model=tmp_path / "start") as (reference, _),
    ):
        begun = await client.begin_stage(begin_request(tmp_path, "sft"))
        assert begun.parameters > 0
        await client.sft_step(sft_request(sft_rows(8)))
        tuned = (await client.publish(trainer_pb2.PublishRequest(header=header("p", 1), number=1))).location

        await load(policy, tuned)
        rollouts = list(
            (await policy.generate(prompts=asked([5, 6], "w1 w2", samples=4), sampling=sampling())).rollouts
        )
        under = await reference.compute_logprobs(rows=rows_of(rollouts), temperature=1.0)
        for index, (rollout, result) in enumerate(zip(rollouts, under.results, strict=True)):
            rollout.reference_logprobs[:] = result.logprobs
            rollout.reference_version.CopyFrom(under.version)
            rollout.score.value.raw = rollout.score.value.normalised = index / 4 - 1

        models = [trainer_pb2.StageModel(role=trainer_pb2.MODEL_ROLE_TRAINED, location=tuned)]
        ppo = begin_request(
            tmp_path, "ppo", {"epochs": 1, "minibatches": 1}, models=models, output_model="policy"
        )
        ppo.header.CopyFrom(header("begin-ppo"))
        await client.begin_stage(ppo)
        step = trainer_pb2.PpoStepRequest(
            header=header("ppo"), inline=trainer_pb2.PpoBatch(rollouts=rollouts)
        )
        result = await client.ppo_step(step)
        largest = max(abs(each) for rollout in rollouts for each in rollout.policy_logprobs)
        assert result.trained and result.metrics["rollouts"] == len(rollouts)
        assert result.metrics["mismatch_largest"] <= 1e-5 * max(1.0, largest)

        trained = (
            await client.publish(trainer_pb2.PublishRequest(header=header("p2", 1), number=1))
        ).location
        await load(policy, trained)
        again = await policy.compute_logprobs(rows=rows_of(rollouts), temperature=1.0)
        assert again.version == trained.version
        before = [x for rollout in rollouts for x in rollout.policy_logprobs]
        after = [x for each in again.results for x in each.logprobs]
        assert max(abs(a - b) for a, b in zip(after, before, strict=True)) > 1e-4, "the step moved the policy"
