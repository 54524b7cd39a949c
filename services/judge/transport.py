"""One request to an OpenAI-compatible endpoint: attempts, back-off, deadlines, and what went wrong in a word.

    posted = await transport.post({"model": "judge", "messages": [...]}, until)
    posted.payload     # the reply's JSON object, or an Abstained; posted.calls says how often it was asked

Tried again: 408, 425, 429, 5xx, a connection that fails, a reply that is no JSON object. Retry-After is kept
to, by every request of this process. Other codes are the endpoint's last word.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import httpx

from services.backoff import backoff_seconds, retry_after_seconds
from services.judge.pace import Pace
from services.judge.records import Abstained, Reason, abstained

REPLY_BYTES = 8 * 1024 * 1024
QUOTED_BYTES = 2000
_AGAIN = (408, 425, 429)


@dataclass(frozen=True)
class Patience:
    """How often and how long an endpoint is asked: attempts, seconds of one and of all, longest pause."""

    attempts: int = 5
    attempt_seconds: float = 60.0
    total_seconds: float = 180.0
    longest_pause_seconds: float = 30.0


@dataclass(frozen=True)
class Posted:
    """A reply's JSON object or why there is none, and how many requests that took."""

    payload: dict[str, Any] | Abstained
    calls: int


class _Again(Exception):
    """Worth another attempt, after `pause` seconds where the endpoint said how long."""

    def __init__(self, failure: Abstained, pause: float | None = None) -> None:
        self.failure, self.pause = failure, pause


class Transport:
    """Posts JSON to one URL. Close it with `close`."""

    def __init__(self, url: str, api_key: str, proxy: str, pace: Pace, patience: Patience) -> None:
        self._url, self._key, self._pace, self._patience = url, api_key, pace, patience
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        # trust_env off: a proxy or a .netrc of the environment would take the key where nobody sent it.
        self._client = httpx.AsyncClient(
            headers=headers, timeout=patience.attempt_seconds, proxy=proxy or None, trust_env=False
        )

    async def close(self) -> None:
        """Ends the connections."""
        await self._client.aclose()

    async def post(self, body: dict[str, Any], until: float) -> Posted:
        """Asks until there is a reply, or attempts or time are used up. Raises nothing of the endpoint's.

        The patience counts from the first attempt on: what waits its turn behind others has until `until`.
        """
        loop = asyncio.get_running_loop()
        failure, calls = abstained(Reason.TIMED_OUT, "no turn to ask the endpoint came in time"), 0
        for attempt in range(1, self._patience.attempts + 1):
            try:
                async with self._pace.turn(until):
                    calls += 1
                    if calls == 1:
                        until = min(until, loop.time() + self._patience.total_seconds)
                    return Posted(await self._attempt(body, until), calls)
            except asyncio.TimeoutError:
                return Posted(failure, calls)
            except _Again as again:
                failure = again.failure
                pause = again.pause
            if attempt == self._patience.attempts:
                break
            if pause is None:
                pause = backoff_seconds(attempt, self._patience.longest_pause_seconds)
            if loop.time() + pause >= until:
                break
            await asyncio.sleep(pause)
        return Posted(failure, calls)

    async def _attempt(self, body: dict[str, Any], until: float) -> dict[str, Any] | Abstained:
        seconds = min(self._patience.attempt_seconds, until - asyncio.get_running_loop().time())
        try:
            status, headers, content = await asyncio.wait_for(self._exchange(body), seconds)
        except (asyncio.TimeoutError, httpx.TimeoutException):
            late = abstained(Reason.TIMED_OUT, f"the endpoint gave no whole answer within {seconds:.3g} s")
            raise _Again(late) from None
        except httpx.HTTPError as error:
            message = self._quoted(f"{type(error).__name__}: {error}")
            raise _Again(abstained(Reason.ENDPOINT_FAILED, message)) from None
        if status == 200:
            return self._object(content)
        said = f"HTTP {status}: {self._quoted(content[:QUOTED_BYTES].decode(errors='replace'))}"
        if status == 429:
            raise self._limited(said, headers)
        if status in _AGAIN or status >= 500:
            pause = retry_after_seconds(headers.get("retry-after"))
            raise _Again(abstained(Reason.ENDPOINT_FAILED, said), pause)
        return abstained(Reason.ENDPOINT_REFUSED, said)

    async def _exchange(self, body: dict[str, Any]) -> tuple[int, httpx.Headers, bytes]:
        """Status, headers and a body that is not without end."""
        async with self._client.stream("POST", self._url, json=body) as response:
            content = bytearray()
            async for part in response.aiter_bytes():
                content += part
                if len(content) > REPLY_BYTES:
                    raise httpx.DecodingError(f"the reply is longer than {REPLY_BYTES} bytes")
            return response.status_code, response.headers, bytes(content)

    def _limited(self, said: str, headers: httpx.Headers) -> _Again:
        pause = retry_after_seconds(headers.get("retry-after"))
        if pause is not None:
            # No longer than a question may take at all: a mistaken header must not stop the judge for a day.
            self._pace.hold(min(pause, self._patience.total_seconds))
        return _Again(abstained(Reason.RATE_LIMITED, said), pause)

    def _object(self, content: bytes) -> dict[str, Any]:
        try:
            payload = json.loads(content)
        except (ValueError, RecursionError):
            payload = None
        if not isinstance(payload, dict):
            said = self._quoted(content[:QUOTED_BYTES].decode(errors="replace"))
            raise _Again(abstained(Reason.ENDPOINT_FAILED, f"the reply is no JSON object: {said}"))
        return payload

    def _quoted(self, text: str) -> str:
        """A line that may be logged and stored: endpoints quote the key they were sent."""
        line = " ".join(text.split())
        return line.replace(self._key, "***") if self._key else line
