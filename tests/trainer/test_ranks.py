"""Several ranks: real processes over gloo that do what one process does, begin and end together."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.faults.small_disk import small_disk
from tests.tiny_models import write_tiny_model
from tests.trainer.gang_process import TORCHRUN, GangProcess, gone
from tests.trainer.wiring import (
    OPTIMIZER,
    begin_request,
    comparison_groups,
    header,
    plain,
    ppo_request,
    preference_models,
    preference_request,
    reward_request,
    rollouts_of,
    sampled_pairs,
    sft_request,
    sft_rows,
    trainer,
    two_models,
)
from trueline import CallError, TrainerClient
from trueline.v1 import trainer_pb2 as pb

STEPS = 5
# Sizes that leave one rank without rows now and then: its passes must not count.
UNEVEN = {"minibatch_size": 4, "micro_batch_size": 2}
UNEVEN_PPO = {
    "epochs": 1,
    "micro_batch_size": 2,
    "kl_target": 6.0,
    "kl_horizon": 500.0,
    "entropy_coefficient": 0.01,
}


@pytest.fixture(scope="module")
def gang(tmp_path_factory):
    process = GangProcess(tmp_path_factory.mktemp("gang") / "two", "--ranks", "2")
    yield process
    process.end()


@pytest.fixture
async def two_ranks(gang):
    async with TrainerClient(gang.address) as client:
        yield client


def relative(found, expected):
    """Norm of the difference over norm, all tensors together."""
    assert found.keys() == expected.keys()
    difference = sum(((found[n].double() - expected[n].double()) ** 2).sum() for n in expected)
    return (difference / sum((expected[n].double() ** 2).sum() for n in expected)).sqrt().item()


def weights_in(place):
    """Weights of every model in a checkpoint."""
    tensors = {}
    for file in sorted(Path(place.uri).glob("*.safetensors")):
        tensors |= load_file(file)
    return {name: tensor for name, tensor in tensors.items() if "/weights/" in name}


def batches(directory, kind, steps):
    """The requests of some steps."""
    if kind == "sft":
        return [sft_request(sft_rows(9, seed=step), step) for step in range(steps)]
    if kind == "reward_model":
        return [reward_request(comparison_groups(5, seed=step), step) for step in range(steps)]
    if kind == "preference":
        return [preference_request(unscored_pairs(directory, step), step) for step in range(steps)]
    rollouts = rollouts_of(directory / "start", directory / "other", 9 * steps)
    return [ppo_request(rollouts[9 * step : 9 * step + 9], step) for step in range(steps)]


def unscored_pairs(directory, seed):
    """Pairs whose reference log-probs the trainer's frozen copy has to give."""
    pairs = sampled_pairs(directory / "start", directory / "other", 5, seed=seed)
    for side in (side for pair in pairs for side in (pair.sampled.first, pair.sampled.second)):
        side.ClearField("reference_logprobs")
    return pairs


async def results_of(client, requests):
    """The steps' results."""
    calls = {
        "SftStepRequest": client.sft_step,
        "RewardModelStepRequest": client.reward_model_step,
        "PpoStepRequest": client.ppo_step,
        "PreferenceStepRequest": client.preference_step,
    }
    return [await calls[type(request).__name__](request) for request in requests]


def begin(directory, kind, name, **fields):
    if not (directory / "start").exists():
        write_tiny_model(directory / "start", "llama", seed=1)
        write_tiny_model(directory / "other", "llama", seed=2)
    # KTO makes every kind of pass that a preference stage can: mismatched ones and the frozen copy's too.
    settings = {
        "sft": UNEVEN,
        "reward_model": {**UNEVEN, "micro_batch_size": 6},
        "ppo": UNEVEN_PPO,
        "preference": {**UNEVEN, "minibatch_size": 3, "loss": "kto"},
    }[kind]
    models = {"models": two_models(directory)} if kind == "ppo" else {}
    if kind == "preference":
        models = {"models": preference_models(directory / "start", directory / "other")}
    given = {"header": header(name), "output_model": name, **models, **fields}
    return begin_request(directory, kind, settings, **given)


@pytest.mark.parametrize("kind", ["sft", "reward_model", "ppo", "preference"])
async def test_two_ranks_give_what_one_gives(tmp_path, two_ranks, kind):
    async with trainer() as one_rank:
        runs, requests = [], None
        for name, client in (("one", one_rank), ("two", two_ranks)):
            begun = await client.begin_stage(begin(tmp_path, kind, f"{kind}-equal"))
            requests = requests or batches(tmp_path, kind, STEPS)
            state = await client.get_state()
            results = await results_of(client, requests)
            place = await client.checkpoint(header=header(f"checkpoint-{name}", STEPS))
            runs.append((begun.parameters, state.weights_sha256, results, place))
    (parameters, first, one, place_one), (parameters_two, first_two, two, place_two) = runs
    assert (parameters, first) == (parameters_two, first_two)
    for expected, found in zip(one, two, strict=True):
        assert dict(found.metrics) == pytest.approx(dict(expected.metrics), rel=1e-4, abs=1e-5)
        for loss in {"loss", "policy_loss", "value_loss"} & found.metrics.keys():
            assert found.metrics[loss] == pytest.approx(expected.metrics[loss], abs=1e-5)
    assert relative(weights_in(place_two), weights_in(place_one)) <= 1e-5


async def test_checkpoints_and_versions_do_not_tell_how_many_ranks_there_were(tmp_path, two_ranks):
    """1 -> 2 -> 1 ranks, a step on each; equal weights are published as equal bytes by either."""
    requests = None
    async with trainer() as one_rank:
        await one_rank.begin_stage(begin(tmp_path, "ppo", "moving"))
        requests = batches(tmp_path, "ppo", 3)
        await results_of(one_rank, requests[:1])
        place = await one_rank.checkpoint(header=header("checkpoint-1", 1))
        expected = await results_of(one_rank, requests[1:])

        await two_ranks.begin_stage(begin(tmp_path, "ppo", "moving"))
        state = await two_ranks.restore(header=header("restore-2"), checkpoint=place)
        second = (await results_of(two_ranks, requests[1:2]))[0]
        place_of_two = await two_ranks.checkpoint(header=header("checkpoint-2", 2))
        files = set(os.listdir(place_of_two.uri))
        assert {f"tensors-0000{n}-of-00002.safetensors" for n in (1, 2)} < files
        published = await two_ranks.publish(header=header("publish-2", 2), number=1)

        back = await one_rank.restore(header=header("restore-1"), checkpoint=place_of_two)
        assert (back.step, back.weights_sha256) == (2, second.weights_sha256)
        # The number is taken already: only the very same bytes are the same version.
        again = await one_rank.publish(header=header("publish-1", 2), number=1)
        assert again.location == published.location
        place_of_two.step = 2
        await two_ranks.restore(header=header("restore-3"), checkpoint=place_of_two)
        assert (await two_ranks.get_state()).weights_sha256 == second.weights_sha256
    assert state.step == 1
    assert second.metrics["policy_loss"] == pytest.approx(expected[0].metrics["policy_loss"], abs=1e-5)


async def test_two_ranks_refuse_what_one_refuses_and_are_as_before(tmp_path, two_ranks):
    explosive = {**OPTIMIZER, "learning_rate": 1e30, "max_gradient_norm": 0.0, "schedule": "constant"}
    broken = sft_request([], 0, "none"), sft_request(sft_rows(3), 1, "skipped"), ppo_request([], 0, "ppo")
    async with trainer() as one_rank:
        said = []
        for client in (one_rank, two_ranks):
            request = begin(tmp_path, "sft", "refused", seed=3)
            request.sft.optimizer.CopyFrom(pb.OptimizerSettings(**explosive))
            await client.begin_stage(request)
            before = await client.get_state()
            errors = [await refusal(client, each) for each in (*broken, sft_request(sft_rows(9), 0, "bang"))]
            after = await client.get_state()
            assert (after.step, after.weights_sha256) == (0, before.weights_sha256)
            place = await client.checkpoint(header=header("c"))
            (Path(place.uri) / "state.json").write_text("{}")
            for call in (
                client.restore(header=header("r"), checkpoint=place),
                client.begin_stage(begin(tmp_path, "sft", "gone", models=[nowhere(tmp_path)])),
            ):
                with pytest.raises(CallError) as caught:
                    await call
                errors.append((caught.value.code, caught.value.reason, caught.value.field_violations and 1))
            said.append((errors, after.weights_sha256))
    assert said[0] == said[1]
    assert said[0][0][3][1] == "non_finite"


async def refusal(client, request):
    """How a step was refused: code, reason and the fields that are named."""
    with pytest.raises(CallError) as caught:
        await results_of(client, [request])
    return caught.value.code, caught.value.reason, [field for field, _ in caught.value.field_violations]


def nowhere(directory):
    return pb.StageModel(role=pb.MODEL_ROLE_TRAINED, location=plain(directory / "nowhere"))


async def test_a_disk_without_room_for_a_directory_is_waited_for_and_ends_no_rank(tmp_path, gang, two_ranks):
    with small_disk(tmp_path / "disk", 64, files=32) as mounted:
        if not mounted:
            pytest.skip("cannot mount a tmpfs here: it takes root and the right to mount")
        await two_ranks.begin_stage(begin(tmp_path, "sft", "full", models_uri=str(tmp_path / "disk")))
        fillers = filled_with_files(tmp_path / "disk")
        with pytest.raises(CallError) as caught:
            await two_ranks.publish(header=header("publish"), number=1)
        assert (caught.value.code.name, caught.value.reason) == ("RESOURCE_EXHAUSTED", "disk_full")
        for each in fillers:
            each.unlink()
        published = await two_ranks.publish(header=header("publish"), number=1)
        assert (Path(published.location.uri) / "model.safetensors").is_file()
        assert sorted(os.listdir(tmp_path / "disk" / "full")) == ["COMMITTED", "v000001"]
    assert gang.process.poll() is None


def filled_with_files(directory):
    """Empty files, as many as still fit."""
    found = []
    for number in itertools.count():
        try:
            (directory / f"filler-{number}").touch()
        except OSError as error:
            assert error.errno == errno.ENOSPC
            return found
        found.append(directory / f"filler-{number}")


@pytest.mark.parametrize("in_a_step", [False, True])
async def test_a_killed_rank_ends_the_gang_and_is_named(tmp_path, in_a_step):
    gang = GangProcess(tmp_path / "gang", "--ranks", "2")
    try:
        rank_0, rank_1 = gang.ranks()
        async with TrainerClient(gang.address) as client:
            await client.begin_stage(begin(tmp_path, "sft", "killed"))
            if in_a_step:
                # Stopped, so that rank 0 waits for it in an exchange when it dies.
                rank_1.suspend()
                step = asyncio.create_task(client.sft_step(sft_request(sft_rows(9))))
                await asyncio.sleep(2)
                assert not step.done()
            rank_1.kill()
            if in_a_step:
                with pytest.raises(CallError) as caught:
                    await asyncio.wait_for(step, 20)
                assert (caught.value.code.name, caught.value.reason) == ("UNAVAILABLE", "rank_lost")
                assert "rank 1 ended with signal SIGKILL" in str(caught.value)
            assert await asyncio.to_thread(gang.process.wait, 20) == 1
        assert gone(rank_1, 5)
        assert "rank 1 ended with signal SIGKILL" in gang.log()
    finally:
        gang.end()


async def test_no_rank_outlives_rank_0(tmp_path):
    gang = GangProcess(tmp_path / "gang", "--ranks", "2")
    try:
        rank_0, rank_1 = gang.ranks()
        rank_0.kill()
        assert await asyncio.to_thread(gone, rank_1, 20)
    finally:
        gang.end()


async def test_torchrun_starts_the_ranks_as_well_and_activation_checkpointing_changes_nothing(tmp_path):
    gang = GangProcess(tmp_path / "gang", "--activation-checkpointing", launcher=TORCHRUN)
    try:
        assert len(gang.ranks()) == 2
        async with TrainerClient(gang.address) as two, trainer() as one:
            found = []
            for client in (one, two):
                await client.begin_stage(begin(tmp_path, "sft", "torchrun"))
                found.append(await results_of(client, batches(tmp_path, "sft", 1)))
        assert found[1][0].metrics["loss"] == pytest.approx(found[0][0].metrics["loss"], abs=1e-5)
    finally:
        gang.end()
    assert gang.process.returncode == 0
