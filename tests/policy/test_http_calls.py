"""Many requests to one endpoint: how many at once, who waits for whom, and what a busy engine is given."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.errors import BusyError, PreconditionError
from services.policy.http_calls import HttpCalls
from services.policy.remote_engine import _together

OK, REFUSED, BUSY = "200 OK", "422 Unprocessable Entity", "429 Too Many Requests"


class Engine:
    """Answers after `seconds`, and 429 at once where it has `most` requests already."""

    def __init__(self, *, seconds: float = 0.2, most: int = 1000) -> None:
        self.seconds, self.most = seconds, most
        self.url = ""
        self.running = self.peak = self.refused = 0

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, request by request."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = head.partition("content-length: ")[2].partition("\r\n")[0]
                await reader.readexactly(int(length))
                status = REFUSED if "/wrong" in head else await self._answer()
                writer.write(f"HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n{{}}".encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self) -> str:
        if self.running >= self.most:
            self.refused += 1
            return BUSY
        self.running += 1
        self.peak = max(self.peak, self.running)
        await asyncio.sleep(self.seconds)
        self.running -= 1
        return OK


@asynccontextmanager
async def served(engine: Engine) -> AsyncIterator[Engine]:
    server = await asyncio.start_server(engine.connected, "127.0.0.1", 0)
    engine.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield engine


async def chunk(calls: HttpCalls, rows: int, *first: str) -> list[Any]:
    """So many completions in a session of their own, the `first` paths before them."""
    paths = [*first, *["/generate"] * rows]
    async with calls.session() as http:
        return await _together([http.post(path, {}) for path in paths])


def on_a_thread(calls: HttpCalls, rows: int) -> Any:
    """As a service runs it: each chunk on a thread, with an event loop of its own."""
    return asyncio.to_thread(lambda: asyncio.run(chunk(calls, rows)))


async def test_a_row_that_waits_for_its_turn_is_not_late() -> None:
    async with served(Engine(seconds=0.5)) as engine:
        calls = HttpCalls(engine.url, seconds=2.0, at_once=4)
        assert await chunk(calls, 24) == [{}] * 24  # 3 s in all
        assert engine.peak == 4


async def test_chunks_side_by_side_keep_one_limit_together() -> None:
    async with served(Engine(most=4)) as engine:
        calls = HttpCalls(engine.url, attempts=1, at_once=4)
        done = await asyncio.gather(*(on_a_thread(calls, 12) for _ in range(3)))
        assert [len(each) for each in done] == [12, 12, 12]
        assert (engine.peak, engine.refused) == (4, 0)


async def test_an_engine_that_takes_fewer_at_once_is_waited_for() -> None:
    async with served(Engine(seconds=1.5, most=4)) as engine:
        calls = HttpCalls(engine.url, attempts=1, at_once=8)
        done = await asyncio.gather(on_a_thread(calls, 6), on_a_thread(calls, 6))
        assert [len(each) for each in done] == [6, 6] and engine.refused


async def test_an_engine_that_stays_busy_is_asked_for_as_long_as_a_request_may_take() -> None:
    async with served(Engine(most=0)) as engine:
        with pytest.raises(BusyError):
            await chunk(HttpCalls(engine.url, seconds=2.5), 1)
        assert engine.refused > 1  # a second apart, as 429 without Retry-After is


async def test_a_chunk_that_fails_gives_its_turns_and_its_waiting_back() -> None:
    async with served(Engine()) as engine:
        calls = HttpCalls(engine.url, at_once=4)
        with pytest.raises(PreconditionError, match="422"):
            await chunk(calls, 20, "/wrong")
        while engine.running:  # it has not seen yet that those rows are gone
            await asyncio.sleep(0.02)
        assert await chunk(calls, 12) == [{}] * 12 and engine.peak == 4


async def test_a_short_chunk_does_not_wait_for_all_rows_of_a_long_one() -> None:
    async with served(Engine()) as engine:
        calls = HttpCalls(engine.url, at_once=2)
        long = asyncio.create_task(chunk(calls, 20))
        await asyncio.sleep(0.1)
        await chunk(calls, 2)
        assert not long.done()
        await long
