"""Versions that the trainer writes: whole, named, with the right parent; and going back to a good one."""

import pytest
import torch

from services.models import load_causal
from services.weights import committed, describe_plain, read_manifest, verify
from tests.tiny_models import write_tiny_model
from tests.trainer.wiring import (
    begin_request,
    header,
    plain,
    ppo_request,
    rollouts_of,
    sft_request,
    sft_rows,
    trainer,
)
from trueline import CallError
from trueline.v1 import trainer_pb2 as pb
from trueline.v1 import types_pb2


async def test_a_published_model_is_a_whole_version_with_its_tokenizer_and_parent(tmp_path):
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "sft"))
        await client.sft_step(sft_request(sft_rows(4)))
        published = await client.publish(header=header("publish", 1), number=1)
        trained = client.servicer.trainer._stage.loaded.model
    path = tmp_path / "models/out/v000001"
    manifest = verify(path)
    assert manifest.sha256 == published.location.version.sha256
    assert manifest.parent == describe_plain(tmp_path / "start").version
    assert committed(tmp_path / "models", "out") == (manifest.version, path)
    loaded = load_causal(path)
    assert loaded.tokenizer.chat_template
    for name, parameter in trained.named_parameters():
        assert torch.equal(parameter, loaded.model.get_parameter(name))


async def test_publishing_the_same_weights_again_is_the_same_version(tmp_path):
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "sft"))
        await client.sft_step(sft_request(sft_rows(4)))
        first = await client.publish(header=header("publish", 1), number=1)
        again = await client.publish(header=header("its answer was lost", 1), number=1)
        assert again.location == first.location
        await client.sft_step(sft_request(sft_rows(4), 1))
        second = await client.publish(header=header("publish/2", 2), number=2)
    assert read_manifest(tmp_path / "models/out/v000002").parent.number == 1
    assert second.location.version.number == 2


async def test_a_checkpoint_from_before_a_publish_publishes_the_same_version(tmp_path):
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "sft"))
        for number in (1, 2):
            await client.sft_step(sft_request(sft_rows(4), number - 1))
            place = await client.checkpoint(header=header(f"checkpoint/{number}", number))
            published = await client.publish(header=header(f"publish/{number}", number), number=number)
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "sft"))
        await client.restore(header=header("restore"), checkpoint=place)
        again = await client.publish(header=header("publish/2", 2), number=2)
        assert again.location == published.location
        await client.sft_step(sft_request(sft_rows(4), 2))
        await client.publish(header=header("publish/3", 3), number=3)
    assert read_manifest(tmp_path / "models/out/v000003").parent.number == 2


async def test_a_number_that_other_weights_have_is_refused(tmp_path):
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "sft"))
        await client.publish(header=header("publish"), number=1)
        await client.sft_step(sft_request(sft_rows(4)))
        with pytest.raises(CallError) as caught:
            await client.publish(header=header("publish/other", 1), number=1)
        assert caught.value.code.name == "ALREADY_EXISTS"
        with pytest.raises(CallError) as caught:
            await client.publish(header=header("publish/0", 1), number=0)
        assert caught.value.field_violations[0][0] == "number"


async def test_a_damaged_model_does_not_begin_a_stage(tmp_path):
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "sft"))
        published = await client.publish(header=header("publish"), number=1)
        weights = tmp_path / "models/out/v000001/model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
        models = [pb.StageModel(role=pb.MODEL_ROLE_TRAINED, location=published.location)]
        with pytest.raises(CallError, match=r"model\.safetensors: is damaged") as caught:
            await client.begin_stage(begin_request(tmp_path, "sft", models=models, header=header("b")))
    assert caught.value.code.name == "INVALID_ARGUMENT"


async def test_going_back_publishes_the_good_weights_as_a_new_version_that_trains_on(tmp_path):
    start = write_tiny_model(tmp_path / "start", "llama", seed=1)
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "ppo"))
        await client.ppo_step(ppo_request(rollouts_of(start, start, 6)))
        good = await client.publish(header=header("publish/1", 1), number=1)
        rollouts = rollouts_of(tmp_path / "models/out/v000001", start, 6)
        of_version(rollouts, good.location.version)
        await client.ppo_step(ppo_request(rollouts, 1))
        await client.publish(header=header("publish/2", 2), number=2)
        before = (await client.get_state()).weights_sha256
        back = await client.roll_back(header=header("back", 2), good=good.location, number=3)
        again = await client.roll_back(header=header("back", 2), good=good.location, number=3)
        state = await client.get_state()
        optimizer = client.servicer.trainer._stage.policy.learner.tensors()
        assert not [name for name in optimizer if not name.startswith("weights/")]  # moments of other weights
        assert again == back and state.step == 2 and state.weights_sha256 != before
        of_version(rollouts, back.location.version)
        assert (await client.ppo_step(ppo_request(rollouts, 2))).step == 3
    manifest = verify(tmp_path / "models/out/v000003")
    good_manifest = verify(tmp_path / "models/out/v000001")
    assert manifest.parent == good_manifest.version
    assert manifest.files["model.safetensors"] == good_manifest.files["model.safetensors"]


def of_version(rollouts: list[types_pb2.Rollout], version: types_pb2.ModelVersion) -> None:
    for rollout in rollouts:
        rollout.policy_version.CopyFrom(version)


async def test_going_back_to_a_model_of_another_shape_is_refused_and_changes_nothing(tmp_path):
    write_tiny_model(tmp_path / "start", "llama", seed=1)
    other = write_tiny_model(tmp_path / "other", "llama", width=16)
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "ppo"))
        before = await client.get_state()
        with pytest.raises(CallError) as caught:
            await client.roll_back(header=header("back"), good=plain(other), number=1)
        assert caught.value.reason == "other_model"
        assert await client.get_state() == before


@pytest.mark.parametrize("family", ["gpt2", "qwen2"])
async def test_other_families_and_tied_embeddings_train_publish_and_restore(tmp_path, family):
    start = write_tiny_model(tmp_path / "start", family, seed=1, tie=True)
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "ppo"))
        result = await client.ppo_step(ppo_request(rollouts_of(start, start, 6)))
        place = await client.checkpoint(header=header("checkpoint", 1))
        await client.publish(header=header("publish", 1), number=1)
        await client.begin_stage(begin_request(tmp_path, "ppo", header=header("anew")))
        state = await client.restore(header=header("restore"), checkpoint=place)
    assert state.weights_sha256 == result.weights_sha256
    load_causal(tmp_path / "models/out/v000001")
