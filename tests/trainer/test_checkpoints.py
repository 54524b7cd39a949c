"""Checkpoints: a trainer that is put back goes on bit for bit as the one that was not."""

import json

import pytest

from tests.tiny_models import write_tiny_model
from tests.trainer.wiring import (
    begin_request,
    comparison_groups,
    header,
    ppo_request,
    reward_request,
    rollouts_of,
    sft_request,
    sft_rows,
    trainer,
)
from trueline import CallError
from trueline.v1 import trainer_pb2 as pb


async def ppo_round(client, tmp_path, step, policy):
    """Rollouts of `policy`, a step, a version: (step result, published)."""
    rollouts = rollouts_of(policy, tmp_path / "start", 8, seed=step)
    result = await client.ppo_step(ppo_request(rollouts, step))
    published = await client.publish(header=header(f"publish/{step}", step + 1), number=step + 1)
    return result, published


SETTINGS = {"kl_target": 6.0, "kl_horizon": 500.0, "critic_warmup_rounds": 1, "total_rounds": 3}


async def test_a_restored_ppo_stage_replays_to_the_same_bits_and_versions(tmp_path):
    start = write_tiny_model(tmp_path / "start", "llama", seed=1)
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "ppo", SETTINGS))
        first, published = await ppo_round(client, tmp_path, 0, start)
        place = await client.checkpoint(header=header("checkpoint", 1))
        undisturbed = []
        for step in (1, 2):
            result, published = await ppo_round(client, tmp_path, step, tmp_path / f"models/out/v{step:06d}")
            undisturbed.append((result.weights_sha256, dict(result.metrics), published.location))

    async with trainer() as client:  # a new process in all but name: nothing is shared but the disk
        await client.begin_stage(begin_request(tmp_path, "ppo", SETTINGS))
        state = await client.restore(header=header("restore"), checkpoint=place)
        assert (state.step, state.weights_sha256) == (1, first.weights_sha256)
        assert state.checkpoint == place
        for step, expected in zip((1, 2), undisturbed, strict=True):
            result, published = await ppo_round(client, tmp_path, step, tmp_path / f"models/out/v{step:06d}")
            assert (result.weights_sha256, dict(result.metrics), published.location) == expected


@pytest.mark.parametrize("kind", ["sft", "reward_model"])
async def test_restored_stages_of_the_other_kinds_replay_to_the_same_bits(tmp_path, kind):
    def step_of(client, step):
        if kind == "sft":
            return client.sft_step(sft_request(sft_rows(9, seed=step), step))
        return client.reward_model_step(reward_request(comparison_groups(6, seed=step), step))

    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, kind))
        await step_of(client, 0)
        place = await client.checkpoint(header=header("checkpoint", 1))
        undisturbed = [(await step_of(client, step)).weights_sha256 for step in (1, 2)]
        # In the same process too: the answers given since the checkpoint are forgotten.
        await client.restore(header=header("back"), checkpoint=place)
        again = [(await step_of(client, step)).weights_sha256 for step in (1, 2)]
        state = await client.get_state()
        assert (state.step, state.weights_sha256) == (3, again[-1])
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, kind))
        await client.restore(header=header("restore"), checkpoint=place)
        replayed = [(await step_of(client, step)).weights_sha256 for step in (1, 2)]
    assert replayed == again == undisturbed


async def test_a_restored_reward_model_still_has_its_normalisation(tmp_path):
    samples = [pb.AnsweredPrompt(text="w1 w2", response=f"w{index}") for index in range(6)]
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "reward_model"))
        fitted = await client.fit_normalisation(header=header("fit"), samples=samples, target_stddev=1.0)
        place = await client.checkpoint(header=header("checkpoint"))
        await client.begin_stage(begin_request(tmp_path, "reward_model", header=header("anew")))
        await client.restore(header=header("restore"), checkpoint=place)
        await client.publish(header=header("publish"), number=1)
    manifest = json.loads((tmp_path / "models/out/v000001/manifest.json").read_bytes())
    assert manifest["extra"]["normalisation"]["gain"] == fitted.gain


async def checkpoint_in(tmp_path, client, **fields):
    await client.begin_stage(begin_request(tmp_path, "sft", **fields))
    await client.sft_step(sft_request(sft_rows(4)))
    return await client.checkpoint(header=header("checkpoint", 1))


async def test_a_checkpoint_holds_no_pickle_and_is_written_once(tmp_path):
    async with trainer() as client:
        place = await checkpoint_in(tmp_path, client)
        again = await client.checkpoint(header=header("once more", 1))
    assert again == place
    (directory,) = (tmp_path / "checkpoints").iterdir()
    assert sorted(file.name for file in directory.iterdir()) == [
        "manifest.json",
        "state.json",
        "tensors.safetensors",
    ]
    assert place.uri == str(directory) and place.step == 1


@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors", "manifest.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
async def test_a_damaged_checkpoint_is_refused_and_changes_nothing(tmp_path, name, harm):
    async with trainer() as client:
        place = await checkpoint_in(tmp_path, client)
        damage(tmp_path / "checkpoints" / place.uri.rsplit("/", 1)[1] / name, harm)
        before = await client.get_state()
        with pytest.raises(CallError) as caught:
            await client.restore(header=header("restore"), checkpoint=place)
        assert caught.value.code.name == "INVALID_ARGUMENT"
        assert caught.value.reason == "checkpoint_damaged", "by which a caller knows to try an older one"
        assert caught.value.field_violations[0][0].startswith("checkpoint.")
        assert await client.get_state() == before


def damage(file, harm):
    content = bytearray(file.read_bytes())
    if harm == "remove":
        file.unlink()
    elif harm == "cut":
        file.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content)


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        ({}, {"stage": "another"}),
        ({}, {"seed": 8}),
        ({}, {"header": header("b", run="other")}),
        ({"max_tokens": 9}, {}),
    ],
)
async def test_a_checkpoint_of_another_stage_run_or_setting_is_refused(tmp_path, settings, fields):
    async with trainer() as client:
        place = await checkpoint_in(tmp_path, client)
        anew = begin_request(tmp_path, "sft", settings, **{"header": header("anew"), **fields})
        await client.begin_stage(anew)
        with pytest.raises(CallError) as caught:
            await client.restore(header=header("restore", run=anew.header.run_id), checkpoint=place)
    assert caught.value.reason == "other_stage"


async def test_a_checkpoint_said_to_be_of_another_step_is_refused(tmp_path):
    async with trainer() as client:
        place = await checkpoint_in(tmp_path, client)
        place.step = 2
        with pytest.raises(CallError, match="the checkpoint is of step 1"):
            await client.restore(header=header("restore"), checkpoint=place)
