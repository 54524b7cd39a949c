"""Model work: off the event loop, in order, bounded, timed."""

import asyncio
import logging
import threading
import time

import grpc
import pytest
from prometheus_client import CollectorRegistry

from services.errors import BusyError
from services.logs import call_fields
from services.server import Server
from services.work import Work
from tests.server.scripted import Caller


async def test_timing_tells_waiting_from_working():
    work = Work()
    (_, first), (_, second) = await asyncio.gather(work.run(time.sleep, 0.5), work.run(time.sleep, 0.01))
    assert first.queue_seconds < 0.4 and first.compute_seconds >= 0.49
    assert second.compute_seconds < 0.4 and second.queue_seconds >= 0.49


async def test_calls_run_one_at_a_time_in_the_order_they_came():
    work, order, at_once = Work(), [], []

    def step(number: int) -> None:
        at_once.append(work.running)
        time.sleep(0.01)
        order.append(number)

    await asyncio.gather(*(work.run(step, number) for number in range(10)))
    assert order == list(range(10))
    assert at_once == [1] * 10
    assert (work.running, work.waiting) == (0, 0)


async def test_a_full_queue_refuses_and_takes_calls_again_once_it_has_room():
    work, go = Work(max_waiting=2), threading.Event()
    held = [asyncio.create_task(work.run(go.wait)) for _ in range(3)]
    await asyncio.sleep(0.05)
    assert (work.running, work.waiting) == (1, 2)
    with pytest.raises(BusyError, match="2 calls wait already"):
        await work.run(go.wait)
    go.set()
    await asyncio.gather(*held)
    assert (await work.run(len, "abc"))[0] == 3


async def test_a_waiting_call_leaves_with_its_caller_and_a_running_one_goes_on():
    work, go, ran = Work(max_waiting=1), threading.Event(), []

    def step(name: str) -> None:
        go.wait()
        ran.append(name)

    running = asyncio.create_task(work.run(step, "running"))
    waiting = asyncio.create_task(work.run(step, "waiting"))
    await asyncio.sleep(0.05)
    waiting.cancel()
    running.cancel()
    await asyncio.gather(running, waiting, return_exceptions=True)
    assert (work.running, work.waiting) == (1, 0)
    go.set()
    await work.run(step, "next")
    assert ran == ["running", "next"]


async def test_failed_work_raises_its_error_and_is_timed_too():
    registry = CollectorRegistry()
    work = Work(registry=registry)
    with pytest.raises(ZeroDivisionError):
        await work.run(lambda: 1 / 0)
    assert registry.get_sample_value("trueline_work_compute_seconds_count") == 1.0
    assert registry.get_sample_value("trueline_work_waiting_calls") == 0.0


async def test_lines_logged_by_the_work_name_their_call(caplog: pytest.LogCaptureFixture):
    call_fields.set({"run": "r7"})
    seen, _ = await Work().run(call_fields.get)
    assert seen == {"run": "r7"}
    logging.getLogger().info("unused")


async def test_over_the_wire_a_full_queue_is_resource_exhausted(server: Server, caller: Caller):
    calls = [asyncio.create_task(caller.outcome("unary", b"compute 0.3")) for _ in range(5)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    refused = [result for result in results if isinstance(result, grpc.aio.AioRpcError)]
    assert [error.code() for error in refused] == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 2
    assert results.count([b"compute 0.3"]) == 3
