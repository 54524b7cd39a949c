"""Who may change a service's state, and what a repeated request means.

    fence = Fence()
    result = await fence.run(header, lambda: step(batch), fingerprint="PpoStep:" + digest)

* A header with a lower epoch than its run has shown is refused: its sender has lost the lease.
* A repeat of an answered request gets the stored answer; the step is not run again.
* A repeat of a running request joins it: both await the one task.
* A caller that goes away does not stop what it began.
* A failed request is not stored: a repeat tries again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from services.errors import FieldError, PreconditionError
from services.progress import HEARTBEAT_SECONDS, Finished, ProgressEvent, ProgressFeed, stream_with_progress

Result = TypeVar("Result")

STORED_ANSWERS = 256
REMEMBERED_RUNS = 64


@dataclass(frozen=True)
class CallHeader:
    """Heads a mutating call: CallHeader("r7", epoch=3, request_id="r7/ppo/12/step", expected_step=12)."""

    run_id: str
    epoch: int
    request_id: str
    expected_step: int = 0


@dataclass
class _Request:
    fingerprint: str
    task: asyncio.Task[Any]
    progress: ProgressFeed = field(default_factory=ProgressFeed)


class Fence:
    """Refuses the calls of a leader that was replaced, and answers repeats without doing the work twice."""

    def __init__(self, stored_answers: int = STORED_ANSWERS, remembered_runs: int = REMEMBERED_RUNS) -> None:
        self._stored_answers, self._remembered_runs = stored_answers, remembered_runs
        self._epochs: OrderedDict[str, int] = OrderedDict()
        self._requests: OrderedDict[tuple[str, str], _Request] = OrderedDict()

    @property
    def running_request_id(self) -> str:
        """The oldest request that still runs; empty when none does."""
        return next((key[1] for key, request in self._requests.items() if not request.task.done()), "")

    def epoch(self, run_id: str) -> int:
        """The highest epoch that this run has shown; 0 when it has shown none."""
        return self._epochs.get(run_id, 0)

    def check(self, header: CallHeader) -> None:
        """Admits a header and remembers its epoch.

        Raises FieldError for an empty run or request id, PreconditionError("stale_epoch") for a lower epoch.
        Call it again where a step that waited is about to begin: a new leader may have come meanwhile.
        """
        for name in ("run_id", "request_id"):
            if not getattr(header, name):
                raise FieldError(f"header.{name}", "", "must not be empty")
        known = self.epoch(header.run_id)
        if header.epoch < known:
            raise PreconditionError(
                "stale_epoch",
                f"header.epoch: {header.epoch} is lower than {known}, which run {header.run_id!r} has shown",
            )
        self._remember(header)

    def _remember(self, header: CallHeader) -> None:
        newest = next(reversed(self._epochs), None)
        if newest not in (None, header.run_id):
            # Another run: the answers of the one before are of no more use to anybody.
            self.forget_answers()
        self._epochs[header.run_id] = header.epoch
        self._epochs.move_to_end(header.run_id)
        while len(self._epochs) > self._remembered_runs:
            self._epochs.popitem(last=False)

    def forget_answers(self, keep: int = 0) -> None:
        """Forgets stored answers but the newest `keep`; running requests stay.

        For a service that went back to an earlier state: the requests since are sent again under their first
        ids, and have to be done again.
        """
        answered = [key for key, request in self._requests.items() if request.task.done()]
        for key in answered[: max(0, len(answered) - keep)]:
            del self._requests[key]

    async def run(
        self, header: CallHeader, step: Callable[[], Awaitable[Result]], fingerprint: str = ""
    ) -> Result:
        """Runs `step` once per request id and gives its answer to every call that names the request.

        `fingerprint` says what is asked (method and digest of the request): the same id with another one is
        refused with PreconditionError("request_id_reused").
        """
        return await asyncio.shield(self._begin(header, lambda _: step(), fingerprint).task)

    async def stream(
        self,
        header: CallHeader,
        step: Callable[[ProgressFeed], Awaitable[Result]],
        fingerprint: str = "",
        heartbeat: float = HEARTBEAT_SECONDS,
    ) -> AsyncGenerator[ProgressEvent | Finished[Result], None]:
        """As `run`, with progress: whoever joins sees the progress of the one step."""
        request = self._begin(header, step, fingerprint)
        events = stream_with_progress(_shielded(request.task), request.progress, heartbeat)
        async with aclosing(events):
            async for event in events:
                yield event

    def _begin(
        self, header: CallHeader, step: Callable[[ProgressFeed], Awaitable[Result]], fingerprint: str
    ) -> _Request:
        self.check(header)
        key = (header.run_id, header.request_id)
        request = self._requests.get(key)
        if request is None or _failed(request.task):
            request = _start(step, fingerprint)
            self._requests[key] = request
            self._requests.move_to_end(key)
            self.forget_answers(keep=self._stored_answers)
        if request.fingerprint != fingerprint:
            raise PreconditionError(
                "request_id_reused", f"header.request_id: {header.request_id!r} named another request before"
            )
        return request


def _start(step: Callable[[ProgressFeed], Awaitable[Result]], fingerprint: str) -> _Request:
    progress = ProgressFeed()

    async def whole() -> Result:
        return await step(progress)

    task = asyncio.create_task(whole())
    # Somebody must look at a failure that no caller is left to see, or asyncio complains about it.
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return _Request(fingerprint, task, progress)


async def _shielded(task: asyncio.Task[Result]) -> Result:
    return await asyncio.shield(task)


def _failed(task: asyncio.Task[Any]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
