"""Which version answers: loaded, followed, swapped between chunks, and kept when the new one is bad."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.weights import PublishedVersion
from tests.health_checks import percentile_99_beside
from tests.model_services import (
    POLICY,
    asked,
    header,
    location,
    policy_service,
    publish_tiny,
    sampling,
    version_pb,
)
from tests.tiny_models import write_tiny_model
from trueline import CallError, PolicyClient
from trueline.v1 import types_pb2 as pb

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SLOW: dict[str, Any] = {"layers": 4, "width": 128, "context": 256}  # some seconds for a large chunk


async def refused(call: Awaitable[Any], code: grpc.StatusCode) -> CallError:
    with pytest.raises(CallError) as caught:
        await call
    assert caught.value.code is code, caught.value
    return caught.value


async def health_of(address: str, service: str = POLICY) -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        reply = await stub.Check(health_pb2.HealthCheckRequest(service=service))
        return int(reply.status)


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.02)


async def serves(policy: PolicyClient, published: PublishedVersion) -> bool:
    return bool((await policy.get_policy()).version == version_pb(published))


async def chunk_of(policy: PolicyClient, **changes: Any) -> Any:
    return await policy.generate(
        prompts=asked([1, 5, 6], [1, 7], samples=2), sampling=sampling(max_new_tokens=12), **changes
    )


def ids_of(reply: Any) -> list[list[int]]:
    return [list(rollout.response_ids) for rollout in reply.rollouts]


async def test_without_a_model_it_waits_not_serving_until_load_weights(tmp_path: Path) -> None:
    published = publish_tiny(tmp_path)
    async with policy_service() as (policy, server):
        assert await health_of(server.address) != SERVING
        assert await health_of(server.address, "") == SERVING
        assert (await refused(chunk_of(policy), grpc.StatusCode.UNAVAILABLE)).reason == "not_loaded"
        assert not (await policy.get_policy()).HasField("version")
        seen: list[str] = []
        loaded = await policy.load_weights(
            header=header("1"), location=location(published), on_progress=lambda p: seen.append(p.activity)
        )
        assert loaded.version == version_pb(published)
        assert loaded.bytes == published.bytes and loaded.seconds > 0
        assert seen
        assert await health_of(server.address) == SERVING
        reply = await chunk_of(policy, expected_version=version_pb(published))
        assert all(rollout.policy_version == version_pb(published) for rollout in reply.rollouts)


async def test_a_plain_directory_is_served_as_version_0_and_described(tmp_path: Path) -> None:
    async with policy_service(model=write_tiny_model(tmp_path / "llama")) as (policy, _):
        served = await policy.get_policy()
    assert (served.version.model, served.version.number) == ("llama", 0)
    assert (served.engine, served.hot_swap) == ("transformers", True)
    assert list(served.logprob_kinds) == [pb.LOGPROB_KIND_TEMPERATURE, pb.LOGPROB_KIND_PROCESSED]
    assert (served.context_length, served.vocabulary_size) == (64, 64)
    assert list(served.end_of_text_ids) == [2]
    assert len(served.tokenizer_sha256) == len(served.template_sha256) == 64


async def test_a_plain_directory_is_loaded_where_no_version_is_expected(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "llama")
    async with policy_service() as (policy, _):
        where = pb.ModelLocation(uri=path.as_uri())
        loaded = await policy.load_weights(header=header("1"), location=where)
        assert (loaded.version.model, loaded.version.number) == ("llama", 0)
        where.version.CopyFrom(loaded.version)
        assert (await policy.load_weights(header=header("2"), location=where)).version == loaded.version


async def test_a_batch_pinned_to_another_version_is_refused_with_both_names(tmp_path: Path) -> None:
    old, new = publish_tiny(tmp_path, 1), publish_tiny(tmp_path, 2)
    async with policy_service(model=new.path) as (policy, _):
        pinned = version_pb(old)
        error = await refused(chunk_of(policy, expected_version=pinned), grpc.StatusCode.FAILED_PRECONDITION)
        rows = [pb.LogprobRow(prompt_ids=[5], response_ids=[6])]
        call = policy.compute_logprobs(rows=rows, temperature=1.0, expected_version=pinned)
        again = await refused(call, grpc.StatusCode.FAILED_PRECONDITION)
    for each in (error, again):
        assert each.reason == "wrong_version"
        assert "policy@1" in each.message and "policy@2" in each.message


def flip_a_bit(path: Path) -> None:
    content = bytearray((path / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (path / "model.safetensors").write_bytes(content)


def cut_in_half(path: Path) -> None:
    content = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(content[: len(content) // 2])


def lose_the_manifest(path: Path) -> None:
    (path / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("damage", "says"),
    [(flip_a_bit, "damaged"), (cut_in_half, "half-written"), (lose_the_manifest, "manifest.json")],
)
async def test_a_corrupt_version_is_refused_and_the_old_one_serves_on(
    tmp_path: Path, damage: Callable[[Path], None], says: str
) -> None:
    old, new = publish_tiny(tmp_path, 1), publish_tiny(tmp_path, 2)
    damage(new.path)
    async with policy_service(model=old.path) as (policy, server):
        before = ids_of(await chunk_of(policy))
        call = policy.load_weights(header=header("1"), location=location(new))
        error = await refused(call, grpc.StatusCode.INVALID_ARGUMENT)
        assert error.field_violations[0][0] == "location.uri"
        assert says in error.message and "still serving policy@1" in error.message
        assert error.reason == "weights_damaged"
        assert ids_of(await chunk_of(policy, expected_version=version_pb(old))) == before
        assert await health_of(server.address) == NOT_SERVING, "balancers skip it: it missed a version"
        failures = server.host.registry.get_sample_value
        assert failures("trueline_weights_load_failures_total", {"model": "policy"}) == 1
        assert failures("trueline_weights_version", {"model": "policy"}) == 1
        await policy.load_weights(header=header("2"), location=location(old))
        assert await health_of(server.address) == SERVING, "it has the version that it was told to serve last"


async def test_a_location_that_holds_another_version_than_it_says_is_refused(tmp_path: Path) -> None:
    old, new = publish_tiny(tmp_path, 1), publish_tiny(tmp_path, 2)
    async with policy_service(model=old.path) as (policy, _):
        mislabelled = pb.ModelLocation(version=version_pb(new), uri=str(old.path))
        call = policy.load_weights(header=header("1"), location=mislabelled)
        assert "expected policy@2" in (await refused(call, grpc.StatusCode.INVALID_ARGUMENT)).message
        for uri in ("", "relative", "s3://bucket/v1", str(tmp_path / "nowhere")):
            call = policy.load_weights(header=header("2" + uri), location=pb.ModelLocation(uri=uri))
            error = await refused(call, grpc.StatusCode.INVALID_ARGUMENT)
            assert error.field_violations[0][0] == "location.uri"


async def test_a_lower_epoch_may_not_load(tmp_path: Path) -> None:
    one, two = publish_tiny(tmp_path, 1), publish_tiny(tmp_path, 2)
    async with policy_service() as (policy, _):
        await policy.load_weights(header=header("new", epoch=5), location=location(one))
        call = policy.load_weights(header=header("old", epoch=4), location=location(two))
        assert (await refused(call, grpc.StatusCode.FAILED_PRECONDITION)).reason == "stale_epoch"
        assert await serves(policy, one)


async def test_a_repeated_load_is_done_again_once_another_version_came_between(tmp_path: Path) -> None:
    one, two = publish_tiny(tmp_path, 1), publish_tiny(tmp_path, 2)
    async with policy_service() as (policy, server):
        for request_id, published in (("a", one), ("a", one), ("b", two), ("a", one)):
            await policy.load_weights(header=header(request_id), location=location(published))
            assert await serves(policy, published)
        assert server.application.policy.serving.swaps == 3  # type: ignore[attr-defined]


async def test_a_chunk_under_way_while_weights_are_swapped_is_of_the_old_version_alone(
    tmp_path: Path,
) -> None:
    one, two = publish_tiny(tmp_path, 1, **SLOW), publish_tiny(tmp_path, 2, **SLOW)
    params = sampling(max_new_tokens=120)
    prompts = asked([1, 5, 6], samples=96)
    async with (
        policy_service(model=one.path) as (policy, server),
        policy_service(model=one.path) as (other, _),
    ):
        undisturbed = await other.generate(prompts=prompts, sampling=params)
        running = asyncio.create_task(policy.generate(prompts=prompts, sampling=params))
        await until(lambda: _is(server.host.work.running == 1))
        waiting = asyncio.create_task(policy.generate(prompts=prompts, sampling=params))
        await until(lambda: _is(server.host.work.waiting == 1))
        await policy.load_weights(header=header("1"), location=location(two))
        assert not running.done(), "the chunk ended before the swap: make it slower"
        first, second = await running, await waiting
    assert {r.policy_version.number for r in first.rollouts} == {1}
    assert {r.policy_version.number for r in second.rollouts} == {2}
    assert [r.SerializeToString() for r in first.rollouts] == [
        r.SerializeToString() for r in undisturbed.rollouts
    ]
    assert ids_of(second) != ids_of(first)


async def _is(condition: bool) -> bool:
    return condition


async def test_a_waiting_chunk_that_is_pinned_to_the_old_version_is_refused_after_the_swap(
    tmp_path: Path,
) -> None:
    one, two = publish_tiny(tmp_path, 1, **SLOW), publish_tiny(tmp_path, 2, **SLOW)
    long: dict[str, Any] = {"prompts": asked([1, 5, 6], samples=96), "sampling": sampling(max_new_tokens=120)}
    async with policy_service(model=one.path) as (policy, server):
        running = asyncio.create_task(policy.generate(**long))
        await until(lambda: _is(server.host.work.running == 1))
        pinned = asyncio.create_task(chunk_of(policy, expected_version=version_pb(one)))
        await until(lambda: _is(server.host.work.waiting == 1))
        await policy.load_weights(header=header("1"), location=location(two))
        await refused(pinned, grpc.StatusCode.FAILED_PRECONDITION)
        assert {r.policy_version.number for r in (await running).rollouts} == {1}


async def test_it_follows_the_committed_pointer_from_before_the_first_version_on(tmp_path: Path) -> None:
    async with policy_service(follow=tmp_path / "policy") as (policy, server):
        assert await health_of(server.address) != SERVING
        for number in (1, 2):
            published = publish_tiny(tmp_path, number)
            await until(lambda: serves(policy, published))  # noqa: B023
            assert await health_of(server.address) == SERVING


async def test_what_load_weights_loaded_stays_until_the_pointer_moves(tmp_path: Path) -> None:
    one, two = publish_tiny(tmp_path, 1), publish_tiny(tmp_path, 2)
    async with policy_service(follow=tmp_path / "policy") as (policy, _):
        await until(lambda: serves(policy, two))
        await policy.load_weights(header=header("back"), location=location(one))
        await asyncio.sleep(1.2)  # more than two looks at the pointer
        assert await serves(policy, one)
        three = publish_tiny(tmp_path, 3)
        await until(lambda: serves(policy, three))


async def test_a_followed_version_that_is_corrupt_leaves_the_old_one_serving(tmp_path: Path) -> None:
    one = publish_tiny(tmp_path, 1)
    async with policy_service(follow=tmp_path / "policy") as (policy, server):
        await until(lambda: serves(policy, one))
        damaged = publish_tiny(tmp_path / "staging", 2)
        cut_in_half(damaged.path)
        damaged.path.rename(tmp_path / "policy" / "v000002")
        pointer = {"number": 2, "sha256": damaged.version.sha256}
        (tmp_path / "policy" / "COMMITTED").write_text(json.dumps(pointer))
        count = server.host.registry.get_sample_value
        failed = ("trueline_weights_load_failures_total", {"model": "policy"})
        await until(lambda: _is((count(*failed) or 0) >= 1))
        assert await serves(policy, one)
        three = publish_tiny(tmp_path, 3)
        await until(lambda: serves(policy, three))


async def test_a_health_check_answers_within_a_tenth_of_a_second_while_chunks_run(tmp_path: Path) -> None:
    one, two = publish_tiny(tmp_path, 1, **SLOW), publish_tiny(tmp_path, 2, **SLOW)
    long = {"prompts": asked([1, 5, 6], samples=64), "sampling": sampling(max_new_tokens=100)}
    async with policy_service(model=one.path) as (policy, server):

        async def chunks_and_a_swap(number: int) -> None:
            version = location((two, one)[number % 2])
            swap = policy.load_weights(header=header(f"swap/{number}"), location=version)
            await asyncio.gather(policy.generate(**long), swap, policy.generate(**long))

        assert await percentile_99_beside(chunks_and_a_swap, server.address, POLICY) < 0.1


async def test_a_model_that_answers_nonsense_is_a_clear_error(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = write_tiny_model(tmp_path / "m")
    weights = load_file(path / "model.safetensors")
    weights["model.norm.weight"].fill_(float("nan"))
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    async with policy_service(model=path) as (policy, _):
        error = await refused(chunk_of(policy), grpc.StatusCode.FAILED_PRECONDITION)
        assert error.reason == "non_finite"
        rows = [pb.LogprobRow(prompt_ids=[5], response_ids=[6])]
        call = policy.compute_logprobs(rows=rows, temperature=1.0)
        assert (await refused(call, grpc.StatusCode.FAILED_PRECONDITION)).reason == "non_finite"


@pytest.mark.timeout(240)  # it imports torch, which takes its time on a machine that does other things too
def test_the_process_serves_a_plain_directory_and_ends_when_told(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "m")
    ready = tmp_path / "ready.json"
    arguments = ["--model", str(path), "--ready-file", str(ready), "--until-stdin-closes"]
    process = subprocess.Popen(
        [sys.executable, "-m", "services.policy", *arguments], stdin=subprocess.PIPE, env=_environment()
    )
    try:
        deadline = time.monotonic() + 100
        while not ready.exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        address = json.loads(ready.read_text())["address"]

        async def ask() -> Any:
            async with PolicyClient(address) as policy:
                return await policy.generate(prompts=asked([5]), sampling=sampling(), deadline=120)

        assert len(asyncio.run(ask()).rollouts) == 1
    finally:
        process.communicate(timeout=30)
    assert process.returncode == 0


@pytest.mark.timeout(240)
def test_a_directory_that_cannot_be_served_ends_the_process_with_1(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "m")
    cut_in_half(path)
    command = [sys.executable, "-m", "services.policy", "--model", str(path)]
    done = subprocess.run(
        command, env=_environment(), capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 1
    assert "model.safetensors" in done.stderr and "half-written" in done.stderr


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": "protos"}
