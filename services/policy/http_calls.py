"""One request to an engine's HTTP API: attempts, pauses, deadlines, and what went wrong as our errors.

    calls = HttpCalls("http://127.0.0.1:8000")
    async with calls.session() as http:
        reply = await http.post("/v1/completions", {...})          its JSON object

Tried again: 408, 425, 429, 5xx, a connection that fails. What stays:

    BusyError          429 to the end; RetryInfo says when
    NotReadyError      "engine_failed": 5xx or no connection; "engine_silent": no answer in time
    PreconditionError  "engine_refused": another 4xx; "engine_garbage": an answer that is none
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from services.backoff import backoff_seconds, retry_after_seconds
from services.errors import BusyError, NotReadyError, PreconditionError

AGAIN = (408, 425, 429)
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
        self.seconds, self.attempts, self._at_once = seconds, attempts, at_once

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """Connections for one chunk, or one load."""
        # trust_env off: a proxy of the environment would take prompts where nobody sent them.
        limits = httpx.Limits(max_connections=self._at_once)
        # No clock of httpx's own: that of a request is in _once, and a load's runs longer than the others'.
        async with httpx.AsyncClient(
            base_url=self.url, headers=self._headers(), limits=limits, timeout=None, trust_env=False
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
        tries = attempts or self._calls.attempts
        for attempt in range(1, tries + 1):
            try:
                return await self._once(method, path, body, seconds or self._calls.seconds)
            except (BusyError, NotReadyError) as error:
                # A silent engine is not asked again here: its caller's patience is not ours to spend.
                if attempt == tries or getattr(error, "reason", "") == "engine_silent":
                    raise
                asked = error.retry_seconds if isinstance(error, BusyError) else 0.0
                pause = max(asked, backoff_seconds(attempt, LONGEST_PAUSE_SECONDS))
                if pause > LONGEST_PAUSE_SECONDS:
                    raise
                await asyncio.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

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
