"""Work that failed under a service is done again once that is mended; what no waiting cures ends at once."""

import asyncio
import contextlib
import errno
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from orchestrator.mending import REFUSALS, Mending, Stopped, Trial, Trouble, own_trouble, trouble_of
from orchestrator.peers import MixedVersions, Peers
from orchestrator.recipe_settings import Supervision
from tests.wire.scripted_services import ScriptedReward, serve
from trueline import CallError, RewardClient
from trueline.v1 import policy_pb2, policy_pb2_grpc, types_pb2

NOBODY: dict[str, list[str]] = {"policy": [], "reference": [], "reward": [], "trainer": []}


def mending(told: list[str] | None = None, patience: float = 60.0, **hooks: Any) -> Mending:
    tell = (told if told is not None else []).append
    return Mending(Supervision(patience_seconds=patience), asyncio.Event(), tell, **hooks)


def failure(code: grpc.StatusCode, reason: str = "", message: str = "no") -> CallError:
    error = CallError(code, message, service="trueline.v1.PolicyService", method="Generate", target="here:1")
    error.reason = reason
    return error


class Work:
    """Fails with each of these errors in turn, then succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.tries = list(errors), 0

    async def __call__(self) -> str:
        self.tries += 1
        await asyncio.sleep(0)
        if self.errors:
            raise self.errors.pop(0)
        return "done"


AWAY = grpc.StatusCode.UNAVAILABLE
LATE = grpc.StatusCode.DEADLINE_EXCEEDED
REFUSED = grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        (failure(AWAY), Trouble.AWAY),
        (failure(LATE), Trouble.AWAY),
        (failure(grpc.StatusCode.CANCELLED), Trouble.AWAY),
        (failure(REFUSED, "stale_step"), Trouble.LOST),
        (failure(REFUSED, "wrong_version"), Trouble.LOST),
        (failure(REFUSED, "too_many_missing"), None),
        (failure(REFUSED, "stale_epoch"), None),
        (failure(grpc.StatusCode.INVALID_ARGUMENT), None),
        (failure(grpc.StatusCode.INVALID_ARGUMENT, "weights_damaged"), Trouble.DAMAGED),
        (failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "disk_full"), Trouble.DISK_FULL),
        (failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "out_of_memory"), None),
        (OSError(errno.ENOSPC, "No space left on device"), Trouble.DISK_FULL),
        (OSError(errno.EACCES, "Permission denied"), None),
        (RuntimeError("a fault of ours"), None),
    ],
)
def test_what_is_waited_out_and_what_ends_the_run(error: Exception, trouble: Trouble | None) -> None:
    assert trouble_of(error) is trouble


async def test_work_is_done_again_behind_a_mend_and_both_are_told() -> None:
    told: list[str] = []
    work, mend = Work(failure(AWAY)), Work()
    assert await mending(told).persist("policy", work, mend) == "done"
    assert (work.tries, mend.tries) == (2, 1)
    assert told[0].startswith("trueline.v1.PolicyService/Generate at here:1: UNAVAILABLE: no; waiting for it")
    assert told[1].startswith("policy works again, ")


async def test_what_waiting_does_not_cure_is_raised_at_once() -> None:
    work, mend = Work(failure(grpc.StatusCode.INVALID_ARGUMENT)), Work()
    with pytest.raises(CallError):
        await mending().persist("policy", work, mend)
    assert (work.tries, mend.tries) == (1, 0)


async def test_a_stage_is_begun_again_for_the_runs_own_disk_but_not_for_a_service_given_up() -> None:
    full, gone = OSError(errno.ENOSPC, "No space left on device"), failure(AWAY)
    work = Work(full, gone)
    with pytest.raises(CallError):
        await mending().persist("the ledger", work, cause=own_trouble)
    assert work.tries == 2


def test_deadlines_missed_one_after_the_other_are_one_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr("orchestrator.mending.time.monotonic", lambda: clock)

    def gives_up_after(code: grpc.StatusCode) -> float:
        nonlocal clock
        began, trial = clock, Trial(600.0, trouble_of)
        with pytest.raises(CallError):
            while True:
                tried, clock = clock, clock + 300.0
                trial.failed(failure(code), tried)
        return clock - began

    assert gives_up_after(LATE) == 1200.0, "the first try, and more for as long as the patience"
    assert gives_up_after(AWAY) > 3000.0, "it worked for minutes in between: each is a new outage"


async def test_those_who_find_one_peer_broken_share_one_mend() -> None:
    menders, mend = mending(), Work()
    works = [Work(failure(AWAY)) for _ in range(5)]
    await asyncio.gather(*(menders.persist("policy", work, mend) for work in works))
    assert mend.tries == 1 and [work.tries for work in works] == [2] * 5


async def test_a_mend_that_fails_is_tried_again_before_the_work() -> None:
    work, mend = Work(failure(AWAY)), Work(failure(AWAY), failure(AWAY))
    assert await mending().persist("trainer", work, mend) == "done"
    assert (work.tries, mend.tries) == (2, 3)


async def test_a_peer_that_refuses_however_often_it_is_mended_ends_the_run() -> None:
    work = Work(*(failure(REFUSED, "wrong_version") for _ in range(10)))
    with pytest.raises(CallError):
        await mending().persist("policy", work)
    assert work.tries == REFUSALS + 1


async def test_patience_ends_with_the_peers_own_error() -> None:
    began = time.monotonic()
    with pytest.raises(CallError, match="UNAVAILABLE"):
        await mending(patience=1.0).persist("policy", Work(*(failure(AWAY) for _ in range(1000))))
    assert 1.0 < time.monotonic() - began < 30


async def test_a_run_told_to_stop_stops_in_the_middle_of_a_wait() -> None:
    menders = mending()
    work = asyncio.create_task(menders.persist("policy", Work(*(failure(AWAY) for _ in range(1000)))))
    await asyncio.sleep(0.5)
    menders.stopping.set()
    with pytest.raises(Stopped):
        await asyncio.wait_for(work, 10)


async def test_missed_deadlines_are_counted_for_whoever_ends_what_hangs() -> None:
    heard: list[tuple[str, int]] = []
    menders = mending(stuck=lambda peer, deadlines, began: heard.append((peer, deadlines)))
    await menders.persist("policy", Work(failure(LATE), failure(AWAY), failure(LATE)))
    assert heard == [("policy", 1), ("policy", 2)]


async def test_a_service_that_goes_and_comes_back_under_its_address_answers_the_same_call() -> None:
    """Over the wire, with a server that is gone for a while."""
    menders = mending()
    async with contextlib.AsyncExitStack() as first:
        server = await first.enter_async_context(serve(ScriptedReward, "length"))
        port = int(server.address.rpartition(":")[2])
        async with RewardClient(server.address, deadline=1.0) as reward:
            await reward.score("length", [("a", "bcd")])
            await first.aclose()
            work = asyncio.create_task(
                menders.persist("reward", lambda: reward.score("length", [("a", "bcd")]))
            )
            await asyncio.sleep(2)
            assert not work.done()
            async with serve(ScriptedReward, "length", port=port):
                reply = await asyncio.wait_for(work, 30)
    assert reply.scores[0].value.raw == 3


class VersionedPolicy(policy_pb2_grpc.PolicyServiceServicer):
    """Serves what it is told to, or refuses the load."""

    def __init__(self) -> None:
        self.version: types_pb2.ModelVersion | None = None
        self.loads: types_pb2.ModelVersion | None = None
        self.reason = ""
        self.asked = 0

    async def GetPolicy(self, request: Any, context: Any) -> policy_pb2.GetPolicyResponse:
        return policy_pb2.GetPolicyResponse(version=self.version)

    async def Generate(self, request: Any, context: Any) -> policy_pb2.GenerateResponse:
        self.asked += 1
        return policy_pb2.GenerateResponse()

    async def LoadWeights(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield policy_pb2.PolicyServiceLoadWeightsResponse(progress=types_pb2.Progress(activity="loading"))
        if self.reason:
            await context.abort(grpc.StatusCode.UNAVAILABLE, self.reason)
        self.version = self.loads or request.location.version
        yield policy_pb2.PolicyServiceLoadWeightsResponse(loaded=types_pb2.LoadedModel(version=self.version))


@contextlib.asynccontextmanager
async def replica(host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[tuple[str, VersionedPolicy]]:
    server, servicer, healthy = grpc.aio.server(), VersionedPolicy(), health.aio.HealthServicer()
    policy_pb2_grpc.add_PolicyServiceServicer_to_server(servicer, server)
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    for service in ("", "trueline.v1.PolicyService"):
        await healthy.set(service, health_pb2.HealthCheckResponse.SERVING)
    address = f"{host}:{server.add_insecure_port(f'{host}:{port}')}"
    await server.start()
    try:
        yield address, servicer
    finally:
        await server.stop(0)


def located(number: int) -> types_pb2.ModelLocation:
    version = types_pb2.ModelVersion(model="policy", number=number, sha256=f"{number:064x}")
    return types_pb2.ModelLocation(version=version, uri=f"/models/policy/v{number:06d}")


async def test_a_replica_that_missed_a_version_is_out_of_rotation_until_it_has_it() -> None:
    told: list[str] = []
    header = types_pb2.CallHeader(run_id="r", epoch=1, request_id="load")
    async with replica() as (one, first), replica() as (two, second):
        async with Peers({**NOBODY, "policy": [one, two]}, tell=told.append) as peers:
            assert (await peers.serve_policy(located(1), header)).number == 1
            second.reason = "it cannot now"
            assert (await peers.serve_policy(located(2), header)).number == 2
            assert second.version is not None and second.version.number == 1
            for _ in range(6):
                await peers.policy.generate(policy_pb2.GenerateRequest())
            assert (first.asked, second.asked) == (6, 0), "it still says SERVING, and is not asked"
            assert "it cannot now; out of rotation" in told[0] and two in told[0]

            second.reason = ""
            assert (await peers.serve_policy(located(2), header)).number == 2
            assert second.version.number == 2
            assert told[1] == f"policy: {one}, {two} of {one}, {two} in rotation"
            until = time.monotonic() + 30
            while second.asked < 3:  # in turn, once both are connected
                assert time.monotonic() < until
                await peers.policy.generate(policy_pb2.GenerateRequest())

            first.reason = second.reason = "neither can"
            with pytest.raises(CallError, match="neither can"):
                await peers.serve_policy(located(3), header)


async def test_replicas_that_came_to_serve_different_versions_start_no_round() -> None:
    header = types_pb2.CallHeader(run_id="r", epoch=1, request_id="load")
    async with replica() as (one, _), replica() as (two, second):
        second.loads = located(7).version  # whatever it is told
        async with Peers({**NOBODY, "policy": [one, two]}) as peers:
            with pytest.raises(MixedVersions, match="policy@1 .*policy@7"):
                await peers.serve_policy(located(1), header)
