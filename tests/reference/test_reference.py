"""The reference over the wire: the numbers of a frozen model, and clear refusals."""

import asyncio
import random
import sys
from pathlib import Path

import grpc
import pytest
import torch

from services.models import load_causal
from services.sequences import response_logprobs
from tests.model_services import header, location, publish_tiny, reference_service, version_pb
from tests.tiny_models import FAMILIES, write_tiny_model
from trueline import CallError
from trueline.v1 import types_pb2 as pb


def rows_of_all_lengths(count: int = 200) -> list[pb.LogprobRow]:
    draw = random.Random(3)
    return [
        pb.LogprobRow(
            prompt_ids=[draw.randrange(5, 64) for _ in range(draw.randint(1, 30))],
            response_ids=[draw.randrange(1, 64) for _ in range(draw.randint(1, 34))],
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.3])
async def test_each_row_gets_the_log_probs_that_it_has_alone_in_its_own_place(
    tmp_path: Path, family: str, temperature: float
) -> None:
    path = write_tiny_model(tmp_path / "m", family)
    rows = rows_of_all_lengths()
    async with reference_service(model=path) as (reference, server):
        reply = await reference.compute_logprobs(rows=rows, temperature=temperature)
        counted = server.host.registry.get_sample_value("trueline_logprob_tokens_total")
    model = load_causal(path).model
    assert reply.logprob_kind == pb.LOGPROB_KIND_TEMPERATURE
    assert reply.timing.compute_seconds > 0
    assert counted == sum(len(row.response_ids) for row in rows)
    for row, result in zip(rows, reply.results, strict=True):
        with torch.no_grad():
            alone, _ = response_logprobs(model, [row.prompt_ids], [row.response_ids], temperature, 0)
        assert result.logprobs == pytest.approx(alone[0].tolist(), rel=1e-5, abs=1e-5)


async def test_it_says_what_it_serves_and_serves_what_it_is_told(tmp_path: Path) -> None:
    one, two = publish_tiny(tmp_path, 1, model="sft"), publish_tiny(tmp_path, 2, model="sft")
    row = [pb.LogprobRow(prompt_ids=[5, 6], response_ids=[7, 2])]
    async with reference_service(model=one.path) as (reference, _):
        served = await reference.get_reference()
        assert served.version == version_pb(one)
        assert (served.context_length, served.vocabulary_size) == (64, 64)
        assert len(served.tokenizer_sha256) == 64
        first = await reference.compute_logprobs(rows=row, temperature=1.0, expected_version=version_pb(one))
        assert first.version == version_pb(one)
        await reference.load_weights(header=header("1"), location=location(two))
        second = await reference.compute_logprobs(rows=row, temperature=1.0)
        assert second.version == version_pb(two)
        assert second.results != first.results
        with pytest.raises(CallError) as caught:
            await reference.compute_logprobs(rows=row, temperature=1.0, expected_version=version_pb(one))
    assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.reason == "wrong_version"


async def test_nothing_can_train_it(tmp_path: Path) -> None:
    async with reference_service(model=write_tiny_model(tmp_path / "m")) as (_, server):
        frozen = server.application.reference.serving.current().model  # type: ignore[attr-defined]
        assert not any(p.requires_grad for p in frozen._model.parameters())


@pytest.mark.parametrize(
    ("prompt", "response", "temperature", "field", "says"),
    [
        ([5], [6, 64], 1.0, "rows[0].response_ids[1]", "must be below 64"),
        ([2**32 - 1], [6], 1.0, "rows[0].prompt_ids[0]", "must be below 64"),
        ([5], [], 1.0, "rows[0].response_ids", "at least one id"),
        ([], [6], 1.0, "rows[0].prompt_ids", "at least one id"),
        ([5] * 40, [6] * 25, 1.0, "rows[0]", "context of 64 tokens"),
        ([5], [6], 0.0, "temperature", "above 0"),
        ([5], [6], float("nan"), "temperature", "above 0"),
    ],
)
async def test_what_it_cannot_answer_is_refused_by_name(
    tmp_path: Path, prompt: list[int], response: list[int], temperature: float, field: str, says: str
) -> None:
    async with reference_service(model=write_tiny_model(tmp_path / "m")) as (reference, _):
        row = pb.LogprobRow(prompt_ids=prompt, response_ids=response)
        with pytest.raises(CallError) as caught:
            await reference.compute_logprobs(rows=[row], temperature=temperature)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    ((named, description),) = caught.value.field_violations
    assert named == field
    assert says in description


async def test_its_settings_are_checked_before_torch_is_imported() -> None:
    flags = ["--model", "nowhere", "--threads", "0", "--sft", "x"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-X", "importtime", "-m", "services.reference", *flags,
        stderr=asyncio.subprocess.PIPE, env={"PYTHONPATH": "protos", "PATH": ""},
    )  # fmt: skip
    _, stderr = await process.communicate()
    text = stderr.decode()
    assert process.returncode == 2
    assert "--model: must be a directory" in text and "--threads: must be" in text and "--sft" in text
    assert "torch" not in text
