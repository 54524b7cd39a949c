"""How fast an endpoint is asked: so many requests at once, so many a minute, none while it wants none."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

FIRST_BACKOFF_SECONDS = 0.5


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
            self._next = start + self._spacing
            while now() < (ready := max(start, self._held_until)):  # again: it may be held while this sleeps
                if ready >= until:
                    raise asyncio.TimeoutError
                await asyncio.sleep(ready - now())
            yield
        finally:
            self._slots.release()

    def hold(self, seconds: float) -> None:
        """Starts no request for that long: the endpoint said so to one, and means all."""
        self._held_until = max(self._held_until, asyncio.get_running_loop().time() + seconds)


def backoff_seconds(attempt: int, longest: float) -> float:
    """Seconds behind attempt 1, 2, ...: doubling, with jitter, or what failed together returns together."""
    return min(longest, FIRST_BACKOFF_SECONDS * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)


def retry_after_seconds(header: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks for, "7" or an HTTP date; None for none and for nonsense."""
    if not header:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        when = parsedate_to_datetime(header)
    except (TypeError, ValueError):
        return None
    when = when if when.tzinfo else when.replace(tzinfo=timezone.utc)
    return max(0.0, (when - (now or datetime.now(timezone.utc))).total_seconds())
