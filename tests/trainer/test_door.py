"""What cannot be reproduced is refused at the door, over the wire, by name."""

import math

import pytest

from tests.trainer.wiring import begin_request, header, ppo_request, rollouts_of, trainer
from trueline import CallError
from trueline.v1 import types_pb2

RAW, PROCESSED = types_pb2.LOGPROB_KIND_RAW, types_pb2.LOGPROB_KIND_PROCESSED


def put(**fields):
    """Sets fields of the one rollout that is spoilt; lists are replaced, sampling.x is sampling__x."""

    def change(rollout):
        for name, value in fields.items():
            *path, last = name.split("__")
            target = rollout
            for part in path:
                target = getattr(target, part)
            if isinstance(value, list):
                getattr(target, last)[:] = value
            else:
                setattr(target, last, value)

    return change


REFUSED = [
    (put(response_ids=[]), "batch.rollouts[1].response_ids"),
    (put(prompt_ids=[]), "batch.rollouts[1].prompt_ids"),
    (put(prompt_ids=[1, 64]), "batch.rollouts[1].prompt_ids"),
    (lambda rollout: rollout.response_ids.__setitem__(0, 4000), "batch.rollouts[1].response_ids"),
    (lambda rollout: rollout.prompt_ids.extend([7] * 64), "batch.rollouts[1]"),
    (lambda rollout: rollout.policy_logprobs.append(-1.0), "batch.rollouts[1].policy_logprobs"),
    (lambda rollout: rollout.policy_logprobs.__setitem__(0, math.nan), "batch.rollouts[1].policy_logprobs"),
    (lambda rollout: rollout.policy_logprobs.__setitem__(0, 0.5), "batch.rollouts[1].policy_logprobs"),
    (put(reference_logprobs=[]), "batch.rollouts[1].reference_logprobs"),
    (
        lambda rollout: rollout.reference_logprobs.__setitem__(0, -math.inf),
        "batch.rollouts[1].reference_logprobs",
    ),
    (put(logprob_kind=0), "batch.rollouts[1].logprob_kind"),
    (put(sampling__top_p=0.9), "batch.rollouts[1].logprob_kind"),
    (put(sampling__top_k=5), "batch.rollouts[1].logprob_kind"),
    (put(sampling__top_p=0.0), "batch.rollouts[1].sampling.top_p"),
    (put(finish_reason=0), "batch.rollouts[1].finish_reason"),
    (put(sampling__temperature=0.9), "batch.rollouts[1].sampling.temperature"),
    (put(sampling__temperature=0.0), "batch.rollouts[1].sampling.temperature"),
    (put(policy_version__number=3), "batch.rollouts[1].policy_version"),
]


@pytest.mark.parametrize(("spoil", "field"), REFUSED)
async def test_a_rollout_that_cannot_be_reproduced_refuses_the_batch_by_name(tmp_path, start, spoil, field):
    rollouts = rollouts_of(start, start, 4)
    spoil(rollouts[1])
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "ppo"))
        before = (await client.get_state()).weights_sha256
        with pytest.raises(CallError) as caught:
            await client.ppo_step(ppo_request(rollouts))
        after = await client.get_state()
    assert caught.value.code.name == "INVALID_ARGUMENT"
    assert field in [name for name, _ in caught.value.field_violations]
    assert (after.step, after.weights_sha256) == (0, before)


async def test_every_fault_of_a_batch_is_named_at_once(tmp_path, start):
    rollouts = rollouts_of(start, start, 4)
    rollouts[1].finish_reason = 0
    rollouts[3].reference_logprobs[:] = []
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "ppo"))
        with pytest.raises(CallError) as caught:
            await client.ppo_step(ppo_request(rollouts))
    fields = [name for name, _ in caught.value.field_violations]
    assert fields == ["batch.rollouts[1].finish_reason", "batch.rollouts[3].reference_logprobs"]


@pytest.mark.parametrize(
    ("kind", "temperature", "passes"), [(RAW, 1.0, True), (RAW, 0.7, False), (PROCESSED, 0.7, True)]
)
async def test_raw_log_probs_train_at_temperature_1_only(tmp_path, start, kind, temperature, passes):
    rollouts = rollouts_of(start, start, 4, temperature=temperature)
    for rollout in rollouts:
        rollout.logprob_kind = kind
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "ppo"))
        if passes:
            assert (await client.ppo_step(ppo_request(rollouts))).trained
            return
        with pytest.raises(CallError) as caught:
            await client.ppo_step(ppo_request(rollouts))
    assert caught.value.field_violations[0][0] == "batch.rollouts[0].logprob_kind"


async def test_processed_log_probs_train_with_top_p(tmp_path, start):
    rollouts = rollouts_of(start, start, 4)
    for rollout in rollouts:
        rollout.logprob_kind, rollout.sampling.top_p = PROCESSED, 0.9
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "ppo"))
        assert (await client.ppo_step(ppo_request(rollouts))).trained


async def test_rollouts_of_another_version_than_the_last_published_are_refused(tmp_path, start):
    rollouts = rollouts_of(start, start, 4)
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "ppo"))
        await client.ppo_step(ppo_request(rollouts))
        published = await client.publish(header=header("publish", 1), number=1)
        with pytest.raises(CallError) as caught:
            await client.ppo_step(ppo_request(rollouts, 1))
        assert caught.value.code.name == "FAILED_PRECONDITION" and caught.value.reason == "wrong_version"
        assert "start@0" in caught.value.message and "out@1" in caught.value.message
        for rollout in rollouts:
            rollout.policy_version.CopyFrom(published.location.version)
        assert (await client.ppo_step(ppo_request(rollouts, 1, "again"))).step == 2


async def test_an_empty_batch_is_refused(tmp_path, start):
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "ppo"))
        with pytest.raises(CallError) as caught:
            await client.ppo_step(ppo_request([]))
    assert caught.value.field_violations[0][0] == "batch.rollouts"
