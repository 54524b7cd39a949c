"""Signs of life from long calls: a caller sets its deadline on silence, not on the whole.

    progress = ProgressFeed("loading")
    async for event in stream_with_progress(load(progress), progress):      # load is a coroutine
        if isinstance(event, Finished):
            yield LoadWeightsResponse(loaded=loaded_to_pb(event.result))
        else:
            yield LoadWeightsResponse(progress=progress_to_pb(event))

The first event comes at once, then one every `heartbeat` seconds, and last the Finished one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")

HEARTBEAT_SECONDS = 2.0


@dataclass(frozen=True)
class ProgressEvent:
    """What is being done and how far it is (total 0: unknown): ProgressEvent("epoch 2 of 4", 3, 8)."""

    activity: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class Finished(Generic[Result]):
    """The last event of a stream."""

    result: Result


class ProgressFeed:
    """Where long work says how far it is, from any thread."""

    def __init__(self, activity: str = "waiting") -> None:
        self.latest = ProgressEvent(activity)

    def report(self, activity: str, done: int = 0, total: int = 0) -> None:
        """Replaces the latest event; nothing blocks and nothing queues."""
        self.latest = ProgressEvent(activity, done, total)


async def stream_with_progress(
    work: Coroutine[Any, Any, Result], progress: ProgressFeed, heartbeat: float = HEARTBEAT_SECONDS
) -> AsyncGenerator[ProgressEvent | Finished[Result], None]:
    """Runs `work`, giving the feed's latest event at once and every `heartbeat` seconds, then Finished.

    Raises what the work raises. A reader that goes away cancels the work; Fence shields what must go on.
    """
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            yield progress.latest
            await asyncio.wait({task}, timeout=heartbeat)
        yield Finished(task.result())
    finally:
        task.cancel()
