"""Model work off the event loop, so that a health check answers in milliseconds while a batch runs.

    work = Work(threads=1, max_waiting=64)
    scores, timing = await work.run(scorer.score, items)      # timing.queue_seconds, timing.compute_seconds

Calls run in the order they came. A caller that goes away takes a waiting call with it; a running one runs to
its end in its thread, and its result is dropped. A full queue raises BusyError (RESOURCE_EXHAUSTED).
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry

from services.errors import BusyError
from services.exported import exported

Result = TypeVar("Result")


@dataclass(frozen=True)
class Timing:
    """How long a call waited and worked, in seconds."""

    queue_seconds: float
    compute_seconds: float


class Work:
    """Runs functions on worker threads: one by default, since a model has one set of weights to work on."""

    def __init__(
        self, threads: int = 1, max_waiting: int = 64, registry: CollectorRegistry | None = None
    ) -> None:
        self._threads, self._max_waiting = threads, max_waiting
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="work")
        self._unfinished = 0
        self._lock = threading.Lock()
        self._metrics = _WorkMetrics(self, registry or CollectorRegistry(), threads, max_waiting)

    @property
    def running(self) -> int:
        """Calls that hold a thread."""
        return min(self._unfinished, self._threads)

    @property
    def waiting(self) -> int:
        """Calls that wait for a thread."""
        return max(0, self._unfinished - self._threads)

    async def run(self, function: Callable[..., Result], *args: object) -> tuple[Result, Timing]:
        """Calls function(*args) on a worker thread; gives its result and how long it waited and worked.

        Raises BusyError when `max_waiting` calls wait already, and whatever the function raises.
        """
        if self._unfinished >= self._threads + self._max_waiting:
            self._metrics.refused.inc()
            raise BusyError(f"{self.waiting} calls wait already; the limit is {self._max_waiting}")
        arrived = time.perf_counter()
        # The context travels along, so that lines logged by the work name the call they belong to.
        with self._lock:
            self._unfinished += 1
        future = self._executor.submit(contextvars.copy_context().run, _clocked, function, args)
        future.add_done_callback(self._finished)
        started, ended, outcome = await asyncio.wrap_future(future)
        timing = Timing(started - arrived, ended - started)
        self._metrics.observe(timing)
        if isinstance(outcome, _Raised):
            raise outcome.error
        return outcome, timing

    def _finished(self, future: Future[Any]) -> None:
        # Called from the worker thread, or from the event loop's when a waiting call was cancelled.
        with self._lock:
            self._unfinished -= 1


@dataclass(frozen=True)
class _Raised:
    error: Exception


def _clocked(
    function: Callable[..., Result], args: tuple[object, ...]
) -> tuple[float, float, Result | _Raised]:
    """Start, end and outcome; an exception travels as a value, so that failed work is timed too."""
    started = time.perf_counter()
    try:
        outcome: Result | _Raised = function(*args)
    except Exception as error:
        outcome = _Raised(error)
    return started, time.perf_counter(), outcome


class _WorkMetrics:
    def __init__(self, work: Work, registry: CollectorRegistry, threads: int, max_waiting: int) -> None:
        exported("trueline_work_waiting_calls", registry).set_function(lambda: work.waiting)
        exported("trueline_work_running_calls", registry).set_function(lambda: work.running)
        exported("trueline_work_waiting_limit_calls", registry).set(max_waiting)
        exported("trueline_work_threads", registry).set(threads)
        self.refused = exported("trueline_work_refused_calls_total", registry)
        self._queue = exported("trueline_work_queue_seconds", registry)
        self._compute = exported("trueline_work_compute_seconds", registry)

    def observe(self, timing: Timing) -> None:
        self._queue.observe(timing.queue_seconds)
        self._compute.observe(timing.compute_seconds)
