"""One request to an engine's HTTP API: attempts, pauses, deadlines, and what went wrong as our errors.

    calls = HttpCalls("http://127.0.0.1:8000")
    async with calls.session() as http:
        reply = await http.post("/v1/completions", {...})          its JSON object

Tried again: 408, 425, 5xx, a connection that fails, so many times; 429, for as long as a request may take,
since who was one too many waits for another's end. What stays:

    BusyError          429 to the end; RetryInfo says when
    NotReadyError      "engine_failed": 5xx or no connection; "engine_silent": no answer in time
    PreconditionError  "engine_refused": another 4xx; "engine_garbage": an answer that is none
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from services.backoff import backoff_seconds, retry_after_seconds
from services.errors import BusyError, NotReadyError, PreconditionError
from services.policy.turns import Turns

AGAIN = (408, 425)
REPLY_BYTES = 64 * 1024 * 1024
QUOTED_CHARACTERS = 300
LONGEST_PAUSE_SECONDS = 10.0


def garbage(what: str) -> PreconditionError:
    """The engine's answer is not what its protocol says; nothing of it is used."""
    return PreconditionError("engine_garbage", f"the engine's answer is not to be used: {what}")


class HttpCalls:
    """How an endpoint is called."""

    def __init__(
        self,
        url: str,
        *,
        key_file: Path | None = None,
        seconds: float = 300.0,
        attempts: int = 4,
        at_once: int = 256,
    ) -> None:
        self.url, self._key_file = url, key_file
        self.seconds, self.attempts, self.turns = seconds, attempts, Turns(at_once)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """Connections for one chunk, or one load."""
        # trust_env off: a proxy of the environment would take prompts where nobody sent them.
        # Neither limits nor a clock of httpx's own: turns limit all sessions together, the clock is in _once.
        async with httpx.AsyncClient(
            base_url=self.url, headers=self._headers(), limits=httpx.Limits(), timeout=None, trust_env=False
        ) as client:
            yield Session(client, self)

    def _headers(self) -> dict[str, str]:
        if self._key_file is None:
            return {}
        return {"authorization": f"Bearer {self._key_file.read_text(encoding='utf-8').strip()}"}


class Session:
    """Open connections to the endpoint."""

    def __init__(self, client: httpx.AsyncClient, calls: HttpCalls) -> None:
        self._client, self._calls = client, calls

    async def get(self, path: str, *, attempts: int | None = None) -> Any:
        """The JSON that a GET gives."""
        return await self._ask("GET", path, None, None, attempts)

    async def post(
        self,
        path: str,
        body: Any = None,
        *,
        seconds: float | None = None,
        attempts: int | None = None,
    ) -> Any:
        """The JSON that a POST gives; None for an empty answer."""
        return await self._ask("POST", path, body, seconds, attempts)

    async def _ask(
        self, method: str, path: str, body: Any, seconds: float | None, attempts: int | None
    ) -> Any:
        # A request that waits its turn behind others is not late: only the one that is asked has a clock.
        async with self._calls.turns.one(self):
            return await self._until_answered(
                method, path, body, seconds or self._calls.seconds, attempts or self._calls.attempts
            )

    async def _until_answered(self, method: str, path: str, body: Any, seconds: float, attempts: int) -> Any:
        """Asks again where that may help. Its turn is kept meanwhile: a busy engine needs no others."""
        until, failures, refusals = time.monotonic() + seconds, 0, 0
        while True:
            try:
                return await self._once(method, path, body, seconds)
            except BusyError as error:
                refusals += 1
                pause = max(error.retry_seconds, backoff_seconds(refusals, LONGEST_PAUSE_SECONDS))
                if time.monotonic() + pause > until:
                    raise
            except NotReadyError as error:
                failures += 1
                # A silent engine is not asked again here: its caller's patience is not ours to spend.
                if failures == attempts or error.reason == "engine_silent":
                    raise
                pause = backoff_seconds(failures, LONGEST_PAUSE_SECONDS)
            await asyncio.sleep(pause)

    async def _once(self, method: str, path: str, body: Any, seconds: float) -> Any:
        place = f"{method} {path}"
        try:
            status, headers, content = await asyncio.wait_for(self._exchange(method, path, body), seconds)
        except asyncio.TimeoutError:
            silent = f"the engine gave no whole answer to {place} within {seconds:g} s"
            raise NotReadyError(silent, "engine_silent") from None
        except httpx.HTTPError as error:
            said = f"{place} at {self._calls.url}: {type(error).__name__}: {error}"
            raise NotReadyError(said[:QUOTED_CHARACTERS], "engine_failed") from None
        if status < 300:
            return _parsed(place, content)
        said = f"{place}: the engine said {status}: {_quoted(content)}"
        if status == 429:
            raise BusyError(said, retry_after_seconds(headers.get("retry-after")) or 1.0)
        if status in AGAIN or status >= 500:
            raise NotReadyError(said, "engine_failed")
        raise PreconditionError("engine_refused", said)

    async def _exchange(self, method: str, path: str, body: Any) -> tuple[int, httpx.Headers, bytes]:
        """Status, headers and a body that is not without end."""
        async with self._client.stream(method, path, json=body) as response:
            content = bytearray()
            async for part in response.aiter_bytes():
                content += part
                if len(content) > REPLY_BYTES:
                    raise garbage(f"longer than {REPLY_BYTES} bytes")
            return response.status_code, response.headers, bytes(content)


def _parsed(place: str, content: bytes) -> Any:
    if not content.strip():
        return None
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise garbage(f"{place} gave no JSON: {_quoted(content)}") from None


def _quoted(content: bytes) -> str:
    return " ".join(content[: 4 * QUOTED_CHARACTERS].decode(errors="replace").split())[:QUOTED_CHARACTERS]
