"""The fault layer itself: each fault fires once, at its point, and does what it says."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from services.policy.hosting import Policy
from services.policy.service import PolicyServicer
from services.policy.settings import PolicySettings
from services.server import running
from tests.faults.caller_edge import together
from tests.faults.clock import preload
from tests.faults.disk import corrupted, fill, refuse_fsync
from tests.faults.installation import REPOSITORY, fault_environment, module_of
from tests.faults.plan import Fault, FaultPlan
from tests.faults.service_edge import install_service_edge
from tests.model_services import POLICY, asked, header, location, publish_tiny, sampling
from tests.tiny_models import write_tiny_model
from trueline import CallError, PolicyClient
from trueline.v1 import types_pb2


def plan_of(directory: Path, *faults: Fault) -> FaultPlan:
    plan = FaultPlan(directory / "plan")
    plan.write(list(faults), deadline=5.0, disk="")
    return plan


@asynccontextmanager
async def faulty_policy(
    monkeypatch: pytest.MonkeyPatch, model: Path, plan: FaultPlan
) -> AsyncIterator[PolicyClient]:
    """A policy service with the layer at its edge."""
    monkeypatch.setattr(grpc.aio, "server", grpc.aio.server)  # put back afterwards
    install_service_edge(plan, "policy")
    settings = PolicySettings(grace=1.0, model=model)
    async with running(POLICY, lambda host: PolicyServicer(Policy(host, settings)), settings) as server:
        await server.started()
        async with PolicyClient.direct(server.address, deadline=10.0) as client:
            yield client


def test_a_fault_is_claimed_once_by_whoever_asks_first(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, *(Fault(n, "slow", "policy", "Generate") for n in range(40)))
    claimed: list[int] = []

    def claim() -> None:
        while fired := plan.claim("policy", "service", "Generate"):
            claimed.append(fired.fault.number)

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == list(range(40))
    assert not plan.all_pending() and len(plan.all_fired()) == 40


def test_a_fault_waits_for_its_round_and_its_call(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, Fault(1, "slow", "policy", "Generate", round=3), Fault(2, "die", "trainer", "*"))
    assert plan.claim("policy", "service", "Generate") is None, "round 3 has not begun"
    assert plan.claim("trainer", "caller", "PpoStep") is None, "the other side"
    fired = plan.claim("trainer", "service", "PpoStep")
    assert fired is not None and fired.record["called"] == "PpoStep" and fired.record["pid"] == os.getpid()
    plan.reach(4)
    plan.reach(2)
    assert plan.round == 4 and plan.claim("policy", "service", "Score") is None
    assert plan.claim("policy", "service", "Generate") is not None


async def test_unavailable_before_and_after_the_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path,
        Fault(1, "unavailable", "policy", "LoadWeights"),
        Fault(2, "unavailable", "policy", "LoadWeights", edge="after"),
    )
    published = publish_tiny(tmp_path)
    async with faulty_policy(monkeypatch, write_tiny_model(tmp_path / "model", seed=9), plan) as policy:
        for number, served in ((1, 0), (2, 1)):
            with pytest.raises(CallError, match=f"fault {number}"):
                await policy.load_weights(header=header(str(number)), location=location(published))
            assert (await policy.get_policy()).version.number == served
        assert (
            await policy.load_weights(header=header("3"), location=location(published))
        ).version.number == 1
    assert len(plan.all_fired()) == 2


async def test_slow_hang_and_reorder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path,
        Fault(1, "slow", "policy", "GetPolicy", seconds=0.4),
        Fault(2, "hang", "policy", "GetPolicy", detail="handler"),
        Fault(3, "reorder", "policy", "Generate"),
    )
    async with faulty_policy(monkeypatch, write_tiny_model(tmp_path / "model"), plan) as policy:
        began = time.monotonic()
        await policy.get_policy()
        assert time.monotonic() - began >= 0.4
        with pytest.raises(CallError) as caught:
            await policy.get_policy(deadline=1.0)
        assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
        request = {"prompts": asked([5, 6]), "sampling": sampling(max_new_tokens=2)}
        first, second = (asyncio.ensure_future(policy.generate(**request)) for _ in range(2))
        assert (await first).rollouts == (await second).rollouts
    assert plan.all_fired()[-1].record["swapped"] is True


async def test_a_shard_reads_wrong_for_one_load_and_the_old_version_serves_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plan = plan_of(tmp_path, *(Fault(n, "corrupt", "policy", "LoadWeights", detail=d) for n, d in CORRUPT))
    published = publish_tiny(tmp_path)
    async with faulty_policy(monkeypatch, write_tiny_model(tmp_path / "model", seed=9), plan) as policy:
        for number, _ in CORRUPT:
            with pytest.raises(CallError, match=str(published.path)):
                await policy.load_weights(header=header(str(number)), location=location(published))
            assert (await policy.get_policy()).version.number == 0
        assert (
            await policy.load_weights(header=header("9"), location=location(published))
        ).version.number == 1


CORRUPT = ((1, "shard"), (2, "manifest"))


async def test_two_answers_are_compared_and_an_answer_is_not_compared_with_an_error(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path, *(Fault(n, "duplicate", "policy", "LoadWeights", side="caller") for n in range(3))
    )
    answers: list[object] = [types_pb2.LoadedModel(bytes=1), types_pb2.LoadedModel(bytes=1)]
    answers += [types_pb2.LoadedModel(bytes=1), types_pb2.LoadedModel(bytes=2)]
    answers += [types_pb2.LoadedModel(bytes=1), OSError("struck by another fault")]

    async def send(_: object) -> object:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    for equal in (True, False, None):
        fired = plan.claim("policy", "caller", "LoadWeights")
        assert fired is not None and (await together(fired, None, send)).bytes == 1
        assert fired.record.get("equal") is equal


def test_a_byte_is_wrong_inside_the_block_and_right_behind_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    with corrupted(tmp_path / "file"):
        assert (tmp_path / "file").read_bytes() == b"a\x9dc"
    assert (tmp_path / "file").read_bytes() == b"abc"


def test_fsync_finds_no_room_once(tmp_path: Path) -> None:
    end = refuse_fsync()
    try:
        with (tmp_path / "file").open("wb") as file:
            with pytest.raises(OSError, match="No space left"):
                os.fsync(file.fileno())
            os.fsync(file.fileno())
    finally:
        end()


def test_the_clock_of_one_process_jumps_in_c_too_and_its_monotonic_clock_does_not(tmp_path: Path) -> None:
    program = (
        "import sys, time, subprocess; sys.path.insert(0, '.')\n"
        "from tests.faults.clock import jump\n"
        "wall, steady = time.time(), time.monotonic()\n"
        "jump(7200); assert 7190 < time.time() - wall < 7290, time.time() - wall\n"
        "jump(-10800); assert -3610 < time.time() - wall < -3510\n"
        "assert time.monotonic() - steady < 60\n"
    )
    environment = {**os.environ, **preload(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, env=environment, timeout=60)
    assert done.returncode == 0


def test_a_process_that_is_no_part_of_a_run_is_left_alone(tmp_path: Path) -> None:
    assert module_of(["python", "-m", "services.policy", "--model", "m"]) == "services.policy"
    assert module_of(["python", "file.py"]) == "" == module_of(["python", "-m"])
    environment = {**os.environ, **fault_environment(plan_of(tmp_path).directory)}
    program = "import sys; assert 'tests.faults.installation' in sys.modules and 'grpc' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", program], env=environment, timeout=60).returncode == 0


def test_a_full_file_system_takes_no_more_byte(tmp_path: Path, small_tmpfs: Path) -> None:
    ballast = fill(small_tmpfs)
    with pytest.raises(OSError, match="No space left"):
        (small_tmpfs / "more").write_bytes(b"x" * 65536)
    ballast.unlink()
    (small_tmpfs / "more").write_bytes(b"x" * 65536)
