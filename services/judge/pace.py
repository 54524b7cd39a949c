"""How fast an endpoint is asked: so many requests at once, so many a minute, none while it wants none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Pace:
    """Lets requests through in the order they came."""

    def __init__(self, at_once: int, per_minute: float) -> None:
        self._slots = asyncio.Semaphore(at_once)
        self._spacing = 60.0 / per_minute if per_minute else 0.0
        self._next = self._held_until = 0.0  # the event loop's time

    @asynccontextmanager
    async def turn(self, until: float) -> AsyncIterator[None]:
        """Waits for a turn. Raises asyncio.TimeoutError where none comes before `until`."""
        now = asyncio.get_running_loop().time
        await asyncio.wait_for(self._slots.acquire(), max(0.0, until - now()))
        try:
            start = max(now(), self._next)
            self._refuse_late(start, until)  # before its turn is taken, which others would wait behind
            self._next = start + self._spacing
            while now() < (ready := max(start, self._held_until)):  # again: it may be held while this sleeps
                self._refuse_late(start, until)
                await asyncio.sleep(ready - now())
            yield
        finally:
            self._slots.release()

    def _refuse_late(self, start: float, until: float) -> None:
        now = asyncio.get_running_loop().time()
        ready = max(start, self._held_until)
        if now < ready and ready >= until:
            raise asyncio.TimeoutError

    def hold(self, seconds: float) -> None:
        """Starts no request for that long: the endpoint said so to one, and means all."""
        self._held_until = max(self._held_until, asyncio.get_running_loop().time() + seconds)
