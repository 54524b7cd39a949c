"""What a call does: deadlines, retries, progress, errors, and the metadata that travels with it."""

import asyncio
import time

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from tests.wire.scripted_services import ScriptedPolicy, ScriptedReward, ScriptedTrainer, serve
from trueline import (
    CallError,
    JudgeClient,
    PolicyClient,
    RewardClient,
    TrainerClient,
    call_context,
    wait_until_ready,
)
from trueline.channel import idempotent_methods
from trueline.client import ReferenceClient
from trueline.v1 import policy_pb2, trainer_pb2, types_pb2

PAIRS = [("Where is my parcel?", "Let me look."), ("Hello", "")]


def header(request_id: str = "round-3-train") -> types_pb2.CallHeader:
    return types_pb2.CallHeader(run_id="helpdesk", epoch=1, request_id=request_id, expected_step=2)


async def test_a_batch_of_pairs_comes_back_in_order_each_a_value_or_an_error():
    async with serve(ScriptedReward, "length") as server, RewardClient(server.address) as reward:
        reply = await reward.score("length", PAIRS)
    assert reply.scores[0].value.raw == len("Let me look.")
    assert not reply.scores[1].HasField("value")
    assert reply.scores[1].error.reason == "empty"


async def test_a_prompt_may_be_chat_messages():
    async with serve(ScriptedReward) as server, RewardClient(server.address) as reward:
        await reward.score("length", [([{"role": "user", "content": "Hello"}], "Hi.")])
        (turn,) = server.script.requests[0].items[0].conversation.messages
    assert (turn.role, turn.content) == (types_pb2.ROLE_USER, "Hello")


@pytest.mark.parametrize(
    ("item", "complaint"),
    [
        (("prompt", 3), r"items\[1\].response: must be text; got 3"),
        ("prompt", r"items\[1\]: must be a \(prompt, response\) pair"),
        ((7, "response"), r"items\[1\].prompt: must be text or a list of messages; got 7"),
        (
            ([{"role": "bot", "content": "x"}], "y"),
            r"items\[1\].prompt\[0\].role: must be one of system, user, assistant",
        ),
        (([{"role": "user"}], "y"), r"items\[1\].prompt\[0\]: must be"),
    ],
)
async def test_a_malformed_item_is_named_before_anything_is_sent(item, complaint):
    async with RewardClient("127.0.0.1:1") as reward:
        with pytest.raises(ValueError, match=complaint):
            await reward.score("length", [("fine", "fine"), item])


async def test_fields_as_keywords_and_a_request_message_are_the_same_call():
    prompts = [
        policy_pb2.PromptSamples(
            prompt=types_pb2.Prompt(prompt_id="p", token_ids=types_pb2.TokenIds(ids=[5, 6]))
        )
    ]
    async with serve(ScriptedPolicy) as server, PolicyClient(server.address) as policy:
        by_fields = await policy.generate(prompts=prompts)
        by_message = await policy.generate(policy_pb2.GenerateRequest(prompts=prompts))
        assert server.script.requests[0] == server.script.requests[1]
    assert by_fields == by_message
    assert list(by_fields.rollouts[0].response_ids) == [5, 6]


async def test_a_misspelt_field_is_refused_by_name():
    async with PolicyClient("127.0.0.1:1") as policy:
        with pytest.raises(ValueError, match="promts"):
            await policy.generate(promts=[])


async def test_an_idempotent_call_is_tried_again_on_unavailable():
    async with serve(ScriptedReward) as server, RewardClient(server.address) as reward:
        server.script.refuse = 2
        await reward.score("length", PAIRS)
        assert server.script.calls == ["Score"] * 3


async def test_a_request_larger_than_grpcs_own_retry_buffer_is_tried_again_too():
    async with serve(ScriptedReward) as server, RewardClient(server.address) as reward:
        server.script.refuse = 1
        await reward.score("length", [("p", "x" * 1024 * 1024)])
        assert server.script.calls == ["Score"] * 2


async def test_a_mutating_call_is_never_tried_again():
    async with serve(ScriptedTrainer) as server, TrainerClient(server.address) as trainer:
        server.script.refuse = 1
        with pytest.raises(CallError) as caught:
            await trainer.ppo_step(header=header())
        assert server.script.calls == ["PpoStep"]
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert caught.value.retryable


def test_idempotent_methods_are_exactly_those_that_change_nothing():
    assert {
        client.SERVICE.name: idempotent_methods(client.SERVICE)
        for client in (PolicyClient, ReferenceClient, RewardClient, JudgeClient, TrainerClient)
    } == {
        "PolicyService": ["Generate", "CountPromptTokens", "ComputeLogprobs", "GetPolicy"],
        "ReferenceService": ["ComputeLogprobs", "GetReference"],
        "RewardService": ["Score", "ListScorers"],
        "JudgeService": ["Compare", "Score", "Critique", "Revise", "GetConstitution"],
        "TrainerService": ["GetState"],
    }


async def test_a_call_ends_at_its_deadline():
    async def dawdle(_context: grpc.aio.ServicerContext) -> None:
        await asyncio.sleep(30)

    async with serve(ScriptedReward) as server, RewardClient(server.address, deadline=0.2) as reward:
        server.script.abort = dawdle
        began = time.monotonic()
        with pytest.raises(CallError) as caught:
            await reward.score("length", PAIRS)
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
async def test_a_deadline_must_be_above_zero(seconds):
    async with RewardClient("127.0.0.1:1") as reward:
        with pytest.raises(ValueError, match="deadline: must be above 0"):
            await reward.score("length", PAIRS, deadline=seconds)


async def test_a_step_reports_progress_and_returns_its_result():
    seen: list[int] = []
    async with serve(ScriptedTrainer) as server, TrainerClient(server.address) as trainer:
        result = await trainer.ppo_step(header=header(), on_progress=lambda event: seen.append(event.done))
    assert seen == [0, 1, 2]
    assert result == trainer_pb2.StepResult(step=7, trained=True)


async def test_a_finished_step_is_left_to_close_and_not_cancelled():
    async with serve(ScriptedTrainer) as server, TrainerClient(server.address) as trainer:
        server.servicer.pause = 0.1
        await trainer.ppo_step(header=header())
        assert server.script.calls == ["PpoStep", "PpoStep closed"]


async def test_a_callbacks_own_timeout_is_not_taken_for_silence():
    def fail(_: types_pb2.Progress) -> None:
        raise TimeoutError("mine")

    async with serve(ScriptedTrainer) as server, TrainerClient(server.address) as trainer:
        with pytest.raises(TimeoutError, match="mine"):
            await trainer.ppo_step(header=header(), on_progress=fail)


async def test_a_step_may_take_longer_than_the_silence_it_is_allowed():
    async with serve(ScriptedTrainer) as server, TrainerClient(server.address) as trainer:
        server.servicer.beats, server.servicer.pause = 8, 0.1
        result = await trainer.ppo_step(header=header(), silence=0.5)
    assert result.step == 7


async def test_a_step_that_falls_silent_is_given_up():
    async with serve(ScriptedTrainer) as server, TrainerClient(server.address) as trainer:
        server.servicer.ending = "silence"
        began = time.monotonic()
        with pytest.raises(CallError, match="no sign of life for 0.3 s") as caught:
            await trainer.ppo_step(header=header(), silence=0.3)
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 5


async def test_a_stream_that_ends_without_a_result_is_an_error():
    async with serve(ScriptedTrainer) as server, TrainerClient(server.address) as trainer:
        server.servicer.ending = "nothing"
        with pytest.raises(CallError, match="the stream ended without a result"):
            await trainer.ppo_step(header=header())


async def test_an_error_in_the_middle_of_a_stream_keeps_its_code():
    async with serve(ScriptedTrainer) as server, TrainerClient(server.address) as trainer:
        server.servicer.ending = "abort"
        with pytest.raises(CallError, match="step 3 was expected; got 2") as caught:
            await trainer.ppo_step(header=header())
    assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION
    assert not caught.value.retryable


async def test_a_server_that_dies_mid_step_is_an_error_and_not_a_cancelled_caller():
    async with serve(ScriptedTrainer) as server, TrainerClient(server.address) as trainer:
        server.servicer.ending = "silence"
        step = asyncio.create_task(trainer.ppo_step(header=header(), silence=20))
        while not server.script.calls:
            await asyncio.sleep(0.01)
        await server.server.stop(0)
        with pytest.raises(CallError):
            await step


async def test_cancelling_the_caller_cancels_the_step():
    async with serve(ScriptedTrainer) as server, TrainerClient(server.address) as trainer:
        server.servicer.ending = "silence"
        step = asyncio.create_task(trainer.ppo_step(header=header(), silence=20))
        while not server.script.calls:
            await asyncio.sleep(0.01)
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step


def packed(message) -> AnyMessage:
    wrapped = AnyMessage()
    wrapped.Pack(message)
    return wrapped


async def test_error_details_say_the_field_the_reason_and_when_to_come_back():
    violation = error_details_pb2.BadRequest.FieldViolation(
        field="items[1].response", description="must not be empty"
    )
    status = status_pb2.Status(
        code=code_pb2.INVALID_ARGUMENT,
        message="1 item cannot be scored",
        details=[
            packed(error_details_pb2.BadRequest(field_violations=[violation])),
            packed(
                error_details_pb2.ErrorInfo(reason="bad_item", domain="trueline", metadata={"index": "1"})
            ),
            packed(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=2, nanos=500_000_000))),
        ],
    )

    async def refuse(context: grpc.aio.ServicerContext) -> None:
        rich = rpc_status.to_status(status)
        await context.abort(rich.code, rich.details, rich.trailing_metadata)

    async with serve(ScriptedReward) as server, RewardClient(server.address) as reward:
        server.script.abort = refuse
        with pytest.raises(CallError) as caught:
            await reward.score("length", PAIRS)
    error = caught.value
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert (error.service, error.method, error.target) == (
        "trueline.v1.RewardService",
        "Score",
        server.address,
    )
    assert error.field_violations == [("items[1].response", "must not be empty")]
    assert (error.reason, error.info, error.retry_after) == ("bad_item", {"index": "1"}, 2.5)
    assert error.retryable
    assert str(error) == (
        f"trueline.v1.RewardService/Score at {server.address}: INVALID_ARGUMENT: 1 item cannot be scored "
        "(items[1].response: must not be empty)"
    )


async def test_error_details_that_cannot_be_read_leave_the_error_whole():
    async def refuse(context: grpc.aio.ServicerContext) -> None:
        await context.abort(grpc.StatusCode.NOT_FOUND, "gone", (("grpc-status-details-bin", b"\xff\xff"),))

    async with serve(ScriptedReward) as server, RewardClient(server.address) as reward:
        server.script.abort = refuse
        with pytest.raises(CallError, match="NOT_FOUND: gone"):
            await reward.score("length", PAIRS)


async def test_run_round_and_request_id_travel_with_every_call():
    async with serve(ScriptedReward) as server, RewardClient(server.address) as reward:
        with call_context(run="café\n7", request_id="outer"), call_context(round=3):
            await reward.score("length", PAIRS)
        await reward.score("length", PAIRS)
        inside, outside = server.script.metadata
    assert inside["trueline-run"] == "caf\\xe9\\n7"
    assert (inside["trueline-round"], inside["trueline-request-id"]) == ("3", "outer")
    assert "trueline-run" not in outside
    assert len(outside["trueline-request-id"]) == 32
    assert inside["user-agent"].startswith("trueline/")


async def test_the_request_id_of_a_mutating_call_is_its_headers():
    async with serve(ScriptedTrainer) as server, TrainerClient(server.address) as trainer:
        with call_context(request_id="another"):
            await trainer.ppo_step(header=header("round-3-train"))
        assert server.script.metadata[0]["trueline-request-id"] == "round-3-train"


async def test_waiting_for_a_service_ends_when_it_serves():
    async with serve(ScriptedReward) as server, RewardClient(server.address) as reward:
        await server.say(False)
        waiting = asyncio.create_task(wait_until_ready(reward, timeout=20))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        await server.say(True)
        await asyncio.wait_for(waiting, 10)


async def test_waiting_in_vain_says_who_was_not_ready_and_why():
    async with serve(ScriptedReward) as server, RewardClient(server.address) as reward:
        await server.say(False)
        with pytest.raises(CallError, match="trueline.v1.RewardService is not ready: NOT_SERVING") as caught:
            await wait_until_ready(reward, timeout=0.3)
        await wait_until_ready(reward, service="", timeout=5)
    assert caught.value.target == server.address


async def test_waiting_for_nobody_ends_in_time():
    async with RewardClient("127.0.0.1:1") as reward:
        began = time.monotonic()
        with pytest.raises(CallError, match="is not ready"):
            await wait_until_ready(reward, timeout=0.5)
    assert time.monotonic() - began < 5
