"""Bad input: each refused at the door, by the name of the field, with nothing lost."""

import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.model_services import asked, policy_service, sampling
from tests.tiny_models import PAD, write_tiny_model
from trueline import CallError, PolicyClient
from trueline.v1 import policy_pb2
from trueline.v1 import types_pb2 as pb


@pytest.fixture
async def policy(tmp_path: Path) -> AsyncIterator[PolicyClient]:
    async with policy_service(model=write_tiny_model(tmp_path / "m", context=32)) as (client, _):
        yield client


async def refusal(call: Any) -> tuple[str, str]:
    with pytest.raises(CallError) as caught:
        await call
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT, caught.value
    ((field, description),) = caught.value.field_violations
    return field, description


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"temperature": 0.0}, "sampling.temperature"),
        ({"temperature": -1.0}, "sampling.temperature"),
        ({"temperature": math.nan}, "sampling.temperature"),
        ({"temperature": math.inf}, "sampling.temperature"),
        ({"top_p": 0.0}, "sampling.top_p"),
        ({"top_p": 1.5}, "sampling.top_p"),
        ({"top_p": math.nan}, "sampling.top_p"),
        ({"max_new_tokens": 0}, "sampling.max_new_tokens"),
        ({"max_new_tokens": 32}, "sampling.max_new_tokens"),
        ({"stop": ["a", ""]}, "sampling.stop[1]"),
    ],
)
async def test_parameters_that_cannot_be_sampled_with(policy: PolicyClient, changes: Any, field: str) -> None:
    assert (await refusal(policy.generate(prompts=asked([5]), sampling=sampling(**changes))))[0] == field


@pytest.mark.parametrize(
    ("content", "field", "says"),
    [
        ([], "prompts[1].prompt.token_ids.ids", "at least one id"),
        ([5, 6, 64], "prompts[1].prompt.token_ids.ids[2]", "must be below 64 (got 64)"),
        ([5, 2**32 - 1], "prompts[1].prompt.token_ids.ids[1]", "must be below 64"),
        ([5, PAD, 6], "prompts[1].prompt.token_ids.ids[1]", "padding"),
        ("", "prompts[1].prompt.text", "at least one token"),
        ("</s>", "prompts[1].prompt.text", "at least one token"),
        ([(pb.ROLE_UNSPECIFIED, "w1")], "prompts[1].prompt.conversation.messages[0].role", "must be one of"),
        ([5] * 25, "prompts[1].prompt", "at most 24 tokens"),
    ],
)
async def test_prompts_that_cannot_be_answered(
    policy: PolicyClient, content: Any, field: str, says: str
) -> None:
    named, description = await refusal(policy.generate(prompts=asked([5], content), sampling=sampling()))
    assert named == field
    assert says in description


async def test_a_chunk_of_nothing_of_too_much_or_of_the_same_row_twice(policy: PolicyClient) -> None:
    params = sampling()
    assert (await refusal(policy.generate(prompts=[], sampling=params)))[0] == "prompts"
    assert (await refusal(policy.generate(prompts=asked([5], samples=0), sampling=params)))[
        0
    ] == "prompts[0].samples"
    assert (await refusal(policy.generate(prompts=asked([5], samples=2**32 - 1), sampling=params)))[
        0
    ] == "prompts"
    twice = await refusal(policy.generate(prompts=asked([5], [5], samples=2), sampling=params))
    assert twice == ("prompts[1]", "sample of the same prompt must not be asked for twice in a chunk (got 0)")
    shapeless = policy.generate(prompts=[policy_pb2.PromptSamples(samples=1)], sampling=params)
    assert (await refusal(shapeless))[0] == "prompts[0].prompt"


async def test_two_prompts_of_the_same_words_are_two_prompts_when_they_have_names(
    policy: PolicyClient,
) -> None:
    prompts = asked([5], [5])
    prompts[0].prompt.prompt_id, prompts[1].prompt.prompt_id = "a", "b"
    assert len((await policy.generate(prompts=prompts, sampling=sampling())).rollouts) == 2
    prompts[1].prompt.prompt_id = "a"
    assert (await refusal(policy.generate(prompts=prompts, sampling=sampling())))[0] == "prompts[1]"


async def test_a_prompt_of_exactly_the_room_there_is_passes(policy: PolicyClient) -> None:
    reply = await policy.generate(prompts=asked([5] * 24), sampling=sampling(max_new_tokens=8))
    assert not reply.rollouts[0].prompt_truncated


async def test_messages_without_a_template_are_refused(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "bare")
    (path / "chat_template.jinja").unlink()
    async with policy_service(model=path) as (policy, _):
        call = policy.generate(prompts=asked([(pb.ROLE_USER, "w1")]), sampling=sampling())
        field, description = await refusal(call)
    assert field == "prompts[0].prompt.conversation"
    assert "no chat template" in description


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (([5], []), "rows[1].response_ids"),
        (([], [5]), "rows[1].prompt_ids"),
        (([5], [6, 64]), "rows[1].response_ids[1]"),
        (([99], [6]), "rows[1].prompt_ids[0]"),
        (([5] * 20, [6] * 13), "rows[1]"),
    ],
)
async def test_rows_whose_log_probs_nobody_can_give(policy: PolicyClient, row: Any, field: str) -> None:
    rows = [pb.LogprobRow(prompt_ids=p, response_ids=r) for p, r in (([5], [6]), row)]
    assert (await refusal(policy.compute_logprobs(rows=rows, temperature=1.0)))[0] == field
    assert (await refusal(policy.compute_logprobs(rows=rows[:1], temperature=0.0)))[0] == "temperature"
    assert (await refusal(policy.compute_logprobs(rows=[], temperature=1.0)))[0] == "rows"
