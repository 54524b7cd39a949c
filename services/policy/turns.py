"""Who may ask an endpoint now: so many requests at once, whichever chunk and thread they come from.

    turns = Turns(at_once=256)
    async with turns.one(chunk):          waits for one, on the event loop of the chunk's own thread
        ...                               a request

Those who wait are served chunk by chunk in a circle, and within a chunk as they came: a short chunk, or the
look behind one, does not wait for all rows of a long one.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager


class Turns:
    """At most `at_once` turns are out at a time."""

    def __init__(self, at_once: int) -> None:
        self._lock, self._free = threading.Lock(), at_once
        self._waiting: dict[object, deque[Future[None]]] = {}  # by chunk; whose turn is next stands first

    @asynccontextmanager
    async def one(self, chunk: object) -> AsyncIterator[None]:
        """A turn for as long as the block runs. Who is cancelled while waiting leaves the queue."""
        turn: Future[None] = Future()
        with self._lock:
            self._waiting.setdefault(chunk, deque()).append(turn)
            self._hand_out()
        try:
            await asyncio.wrap_future(turn)
            yield
        finally:
            if not turn.cancel():  # it came, even if nobody waits for it any more
                with self._lock:
                    self._free += 1
                    self._hand_out()

    def _hand_out(self) -> None:
        while self._free and self._waiting:
            chunk = next(iter(self._waiting))
            queue = self._waiting.pop(chunk)
            turn = queue.popleft()
            if queue:
                self._waiting[chunk] = queue  # behind the others
            if turn.set_running_or_notify_cancel():
                self._free -= 1
                turn.set_result(None)
