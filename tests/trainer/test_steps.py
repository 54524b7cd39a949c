"""Steps as calls: all or nothing, once each, in order, whoever calls and however the call ends."""

import asyncio
import itertools
import pickle
from dataclasses import replace

import pytest
import torch

from services.progress import ProgressFeed
from services.trainer import commands
from services.trainer.device import Compute
from services.trainer.optimizers import Learner
from services.trainer.trainer import Trainer
from services.trainer.wire import demonstrations_from_pb, plan_from_pb, rollouts_from_pb
from tests.health_checks import percentile_99_beside
from tests.tiny_models import write_tiny_model
from tests.trainer.wiring import (
    OPTIMIZER,
    SERVICE,
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


@pytest.mark.parametrize("kind", ["sft", "reward_model"])
async def test_on_two_threads_the_same_batch_gives_the_same_bits(tmp_path, kind):
    digests = set()
    async with trainer(threads=2) as client:
        for attempt in range(3):
            await client.begin_stage(begin_request(tmp_path, kind, header=header(f"begin/{attempt}")))
            if kind == "sft":
                result = await client.sft_step(sft_request(sft_rows(11)))
            else:
                result = await client.reward_model_step(reward_request(comparison_groups(7)))
            digests.add(result.weights_sha256)
    assert len(digests) == 1


async def test_a_stale_and_a_skipped_step_are_refused_with_both_numbers(tmp_path):
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "sft"))
        await client.sft_step(sft_request(sft_rows(4)))
        for step, reason in ((0, "stale_step"), (5, "skipped_step")):
            with pytest.raises(CallError) as caught:
                await client.sft_step(sft_request(sft_rows(4), step, reason))
            assert caught.value.code.name == "FAILED_PRECONDITION" and caught.value.reason == reason
            assert f"expected_step: {step}, but 1 steps of stage 'sft' are done" in caught.value.message


async def test_a_repeat_gets_the_stored_answer_and_trains_nothing(tmp_path):
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "sft"))
        first = await client.sft_step(sft_request(sft_rows(4)))
        again = await client.sft_step(sft_request(sft_rows(4)))
        state = await client.get_state()
    assert again == first
    assert (state.step, state.weights_sha256) == (1, first.weights_sha256)
    assert state.deterministic, "on a CPU"


async def test_a_repeat_of_a_running_step_joins_it(tmp_path):
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "sft"))
        request = sft_request(sft_rows(40))
        first, second = await asyncio.gather(client.sft_step(request), client.sft_step(request))
        assert first == second
        assert (await client.get_state()).step == 1


async def test_a_step_whose_caller_went_away_runs_to_its_end(tmp_path):
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "sft"))
        begun = asyncio.Event()
        request = sft_request(sft_rows(64))
        call = asyncio.create_task(client.sft_step(request, on_progress=lambda _: begun.set()))
        await begun.wait()
        call.cancel()
        assert (await client.get_state()).running_request_id == "sft/0"
        result = await client.sft_step(request)
        state = await client.get_state()
    assert result.trained and state.step == 1 and state.running_request_id == ""
    assert state.weights_sha256 == result.weights_sha256


async def test_a_leader_that_was_replaced_is_refused(tmp_path):
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "sft", header=header("begin", epoch=3)))
        with pytest.raises(CallError) as caught:
            await client.sft_step(header=header("s", epoch=2), inline=pb.SftBatch(rows=sft_rows(2)))
        assert caught.value.reason == "stale_epoch"
        assert (await client.get_state()).epoch == 3


async def test_a_step_that_waited_while_a_new_leader_came_is_refused(tmp_path):
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "sft"))
        running = asyncio.create_task(client.sft_step(sft_request(sft_rows(200))))
        await until(client, lambda state: state.running_request_id == "sft/0")
        waiting = asyncio.create_task(client.sft_step(sft_request(sft_rows(4), 1)))
        await asyncio.sleep(0.05)
        place = await client.checkpoint(header=header("of the new leader", 1, epoch=2))
        assert (await running).step == place.step == 1
        with pytest.raises(CallError) as caught:
            await waiting
    assert caught.value.reason == "stale_epoch"


async def until(client, reached):
    while not reached(await client.get_state()):
        await asyncio.sleep(0.001)


async def test_another_run_cannot_step_a_stage_but_may_begin_its_own(tmp_path):
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "sft"))
        with pytest.raises(CallError) as caught:
            await client.sft_step(header=header("s", run="other"), inline=pb.SftBatch(rows=sft_rows(2)))
        assert caught.value.reason == "other_run"
        await client.begin_stage(begin_request(tmp_path, "sft", header=header("begin", run="other")))
        assert (await client.get_state()).run_id == "other"


async def test_a_step_before_any_stage_and_of_another_kind_is_refused(tmp_path):
    async with trainer() as client:
        with pytest.raises(CallError) as caught:
            await client.sft_step(sft_request(sft_rows(2)))
        assert caught.value.reason == "no_stage"
        await client.begin_stage(begin_request(tmp_path, "sft"))
        with pytest.raises(CallError) as caught:
            await client.reward_model_step(reward_request(comparison_groups(2)))
        assert caught.value.reason == "wrong_stage"


async def test_after_a_stage_is_begun_anew_its_steps_are_done_again(tmp_path):
    rows = sft_rows(4)
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "sft"))
        first = [await client.sft_step(sft_request(rows, step)) for step in range(2)]
        await client.begin_stage(begin_request(tmp_path, "sft", header=header("anew", epoch=2)))
        assert (await client.get_state()).step == 0
        again = []
        for step in range(2):
            request = sft_request(rows, step)
            request.header.epoch = 2
            again.append(await client.sft_step(request))
        state = await client.get_state()
    assert [each.weights_sha256 for each in again] == [each.weights_sha256 for each in first]
    assert (state.step, state.weights_sha256) == (2, first[1].weights_sha256)


async def test_a_stage_that_cannot_begin_leaves_the_one_before(tmp_path):
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "sft"))
        await client.sft_step(sft_request(sft_rows(4)))
        before = await client.get_state()
        broken = begin_request(tmp_path, "sft", header=header("broken"))
        broken.models[0].location.uri = str(tmp_path / "nowhere")
        with pytest.raises(CallError, match="does not exist"):
            await client.begin_stage(broken)
        assert await client.get_state() == before


async def test_every_fault_of_a_stage_is_named_at_once(tmp_path):
    request = pb.BeginStageRequest(
        header=header("begin"), models_uri="relative", ppo=pb.PpoSettings(epochs=2)
    )
    async with trainer() as client:
        with pytest.raises(CallError) as caught:
            await client.begin_stage(request)
    fields = {name for name, _ in caught.value.field_violations}
    assert {"stage", "output_model", "models", "models_uri", "checkpoints_uri"} <= fields


# All or nothing


@pytest.mark.parametrize(
    ("rate", "epochs", "what"), [(1e30, 4, "loss is nan"), (1e39, 1, "weight lm_head.weight is nan")]
)
async def test_a_step_that_comes_to_no_number_is_undone_bit_for_bit(tmp_path, rate, epochs, what):
    start = write_tiny_model(tmp_path / "start", "llama", seed=1)
    optimizer = {**OPTIMIZER, "learning_rate": rate, "max_gradient_norm": 0.0}
    settings = {"policy_optimizer": optimizer, "epochs": epochs, "minibatches": 1}
    async with trainer(threads=2) as client:
        await client.begin_stage(begin_request(tmp_path, "ppo", settings))
        before = await client.get_state()
        with pytest.raises(CallError, match=what) as caught:
            await client.ppo_step(ppo_request(rollouts_of(start, start, 8)))
        assert caught.value.code.name == "FAILED_PRECONDITION" and caught.value.reason == "non_finite"
        assert await client.get_state() == before
        assert client.servicer.trainer._stage.weights_sha256() == before.weights_sha256


@pytest.mark.parametrize("method", ["SftStep", "RewardModelStep", "PpoStep", "PreferenceStep"])
async def test_failures_are_exported_as_0_before_the_first(method):
    async with trainer() as client:
        shown = client.server.host.registry.get_sample_value
        labels = {"method": method, "outcome": "failed"}
        assert shown("trueline_trainer_steps_total", labels) == 0.0, "the increase of a series born at 1 is 0"
        client.servicer.exports.failed(method)
        assert shown("trueline_trainer_steps_total", labels) == 1.0


@pytest.mark.parametrize("threads", [1, 2])
async def test_a_step_that_fails_half_way_can_be_repeated_to_the_same_bits(tmp_path, monkeypatch, threads):
    start = write_tiny_model(tmp_path / "start", "llama", seed=1)
    first, second = rollouts_of(start, start, 8), rollouts_of(start, start, 8, seed=1)

    async def two_steps(fail: bool):
        async with trainer(threads) as client:
            settings = {"kl_target": 6.0, "kl_horizon": 500.0}
            await client.begin_stage(begin_request(tmp_path, "ppo", settings))
            await client.ppo_step(ppo_request(first))
            if fail:
                with monkeypatch.context() as patched:
                    patched.setattr(Learner, "update", failing_at(3))
                    with pytest.raises(CallError) as caught:
                        await client.ppo_step(ppo_request(second, 1))
                assert caught.value.code.name == "INTERNAL"
                assert (
                    client.servicer.trainer._stage.weights_sha256()
                    == (await client.get_state()).weights_sha256
                )
            return await client.ppo_step(ppo_request(second, 1))

    undisturbed, disturbed = await two_steps(fail=False), await two_steps(fail=True)
    assert disturbed.weights_sha256 == undisturbed.weights_sha256
    assert dict(disturbed.metrics) == dict(undisturbed.metrics)


def failing_at(number):
    """Learner.update, but call `number` breaks after it has moved the weights."""
    update, calls = Learner.update, itertools.count(1)

    def failing(self):
        call = next(calls)  # policy and critic call from two threads
        norm = update(self)
        if call == number:
            raise RuntimeError("the power went")
        return norm

    return failing


# Beside the step


async def test_progress_comes_at_once_and_says_what_is_done(tmp_path):
    seen = []
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "sft"))
        await client.sft_step(sft_request(sft_rows(8)), on_progress=seen.append)
    assert seen and seen[0].activity


async def test_health_answers_in_milliseconds_while_a_step_runs(tmp_path):
    start = write_tiny_model(tmp_path / "start", "llama", seed=1, layers=4, width=128)
    rollouts = rollouts_of(start, start, 64, lengths=[20] * 64)
    async with trainer(threads=2) as client:
        settings = {"epochs": 3, "micro_batch_size": 32}
        await client.begin_stage(begin_request(tmp_path, "ppo", settings))

        async def step(number: int) -> None:
            await client.ppo_step(ppo_request(rollouts, number))

        assert await percentile_99_beside(step, client.server.address, SERVICE) < 0.1


def test_commands_are_plain_data_that_another_process_can_execute(tmp_path):
    start = write_tiny_model(tmp_path / "start", "llama", seed=1)
    rollouts = rollouts_from_pb(pb.PpoBatch(rollouts=rollouts_of(start, start, 6)))
    begin = commands.BeginStage(plan_from_pb(begin_request(tmp_path, "ppo")))
    digests = set()
    for sent in (lambda command: command, lambda command: pickle.loads(pickle.dumps(command))):
        inside = Trainer(Compute(torch.device("cpu")))
        inside.execute(sent(begin), ProgressFeed())
        report = inside.execute(sent(commands.PpoStep("run", 0, rollouts)), ProgressFeed())
        digests.add(report.weights_sha256)
    assert len(digests) == 1


def test_the_digest_tells_every_single_weight(tmp_path):
    inside = Trainer(Compute(torch.device("cpu")))
    inside.execute(commands.BeginStage(plan_from_pb(begin_request(tmp_path, "ppo"))), ProgressFeed())
    stage = inside._stage
    before = stage.weights_sha256()
    for learner in stage.learners.values():
        for parameter in learner.parameters.values():
            kept = parameter.detach().clone()
            with torch.no_grad():
                parameter.view(-1)[-1] += 1e-3
            assert stage.weights_sha256() != before
            with torch.no_grad():
                parameter.copy_(kept)
    assert stage.weights_sha256() == before


def test_a_step_is_a_function_of_seed_step_and_batch_not_of_what_ran_before(tmp_path):
    rows = demonstrations_from_pb(pb.SftBatch(rows=sft_rows(9)))
    begin = commands.BeginStage(plan_from_pb(begin_request(tmp_path, "sft")))
    other = commands.BeginStage(replace(begin.plan, seed=8))
    digests = []
    for first in (begin, other):
        inside = Trainer(Compute(torch.device("cpu")))
        for command in (first, commands.SftStep("run", 0, rows), begin, commands.SftStep("run", 0, rows)):
            report = inside.execute(command, ProgressFeed())
        torch.rand(3)  # the global stream decides nothing
        digests.append(report.weights_sha256)
    assert digests[0] == digests[1]
