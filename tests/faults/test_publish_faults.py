"""Faults of publishing: the old version serves on, the error is typed and early, and the cure is enough."""

import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.faults.disk import corrupted, fill
from tests.model_services import header as load_header
from tests.model_services import policy_service
from tests.trainer.wiring import begin_request, header, sft_request, sft_rows, trainer
from trueline import CallError, PolicyClient, TrainerClient
from trueline.v1 import types_pb2

ERROR_SECONDS = 30.0


async def fails_soon(call: Awaitable[Any]) -> CallError:
    """The call's error, which must come within the time that a person is promised."""
    began = time.monotonic()
    with pytest.raises(CallError) as caught:
        await call
    assert time.monotonic() - began < ERROR_SECONDS
    assert caught.value.service and caught.value.method and caught.value.target
    return caught.value


async def step_and_publish(client: TrainerClient, number: int, attempt: str = "") -> types_pb2.ModelLocation:
    """One step, which a repeat does not repeat, and its version."""
    await client.sft_step(sft_request(sft_rows(4), number - 1))
    published = await client.publish(header=header(f"publish/{number}{attempt}", number), number=number)
    return published.location


async def served(policy: PolicyClient) -> types_pb2.ModelVersion:
    return (await policy.get_policy()).version


async def test_a_disk_that_fills_at_publish(tmp_path: Path, small_tmpfs: Path) -> None:
    async with trainer() as client, policy_service() as (policy, _):
        await client.begin_stage(begin_request(small_tmpfs, "sft"))
        first = await step_and_publish(client, 1)
        await policy.load_weights(header=load_header("1"), location=first)
        ballast = fill(small_tmpfs)
        error = await fails_soon(step_and_publish(client, 2))
        assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED and error.reason == "disk_full"
        assert await served(policy) == first.version
        assert not list((small_tmpfs / "models" / "out").glob("v000002*")), "no half of a version stays"
        ballast.unlink()
        second = await step_and_publish(client, 2)
        await policy.load_weights(header=load_header("2"), location=second)
        assert await served(policy) == second.version != first.version


@pytest.mark.parametrize("file", ["model.safetensors", "manifest.json"])
async def test_a_damaged_version(tmp_path: Path, file: str) -> None:
    async with trainer() as client, policy_service() as (policy, _):
        await client.begin_stage(begin_request(tmp_path, "sft"))
        first, second = await step_and_publish(client, 1), await step_and_publish(client, 2)
        await policy.load_weights(header=load_header("1"), location=first)
        with corrupted(Path(second.uri) / file):
            error = await fails_soon(policy.load_weights(header=load_header("2"), location=second))
            assert file in error.message and second.uri in error.message
            assert await served(policy) == first.version
        await policy.load_weights(header=load_header("2"), location=second)
        assert await served(policy) == second.version


async def test_a_version_that_is_damaged_for_good_is_written_again_by_the_trainer(tmp_path: Path) -> None:
    async with trainer() as client, policy_service() as (policy, _):
        await client.begin_stage(begin_request(tmp_path, "sft"))
        first = await step_and_publish(client, 1)
        shard = Path(first.uri) / "model.safetensors"
        shard.write_bytes(shard.read_bytes()[:-8])
        await fails_soon(policy.load_weights(header=load_header("1"), location=first))
        again = await client.publish(header=header("publish/1/again", 1), number=1)
        assert again.location == first
        await policy.load_weights(header=load_header("2"), location=first)
        assert await served(policy) == first.version


async def test_a_wrong_digest(tmp_path: Path) -> None:
    async with trainer() as client, policy_service() as (policy, _):
        await client.begin_stage(begin_request(tmp_path, "sft"))
        first, second = await step_and_publish(client, 1), await step_and_publish(client, 2)
        await policy.load_weights(header=load_header("1"), location=first)
        wrong = types_pb2.ModelLocation()
        wrong.CopyFrom(second)
        wrong.version.sha256 = "0" * 64
        error = await fails_soon(policy.load_weights(header=load_header("2"), location=wrong))
        assert second.version.sha256 in error.message or "0" * 12 in error.message
        assert await served(policy) == first.version
        await policy.load_weights(header=load_header("3"), location=second)
        assert await served(policy) == second.version
