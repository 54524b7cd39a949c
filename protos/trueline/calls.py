"""One call over a channel: deadlines, metadata, errors.

Unary calls have a deadline on the whole, streams on silence and on standing still.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

from trueline.context import call_metadata
from trueline.errors import CallError
from trueline.v1 import types_pb2

CLOSING_SECONDS = 2.0

OnProgress = Callable[[types_pb2.Progress], None]


@dataclass(frozen=True)
class Rpc:
    """One method of an open stub, what an error about it says, and what shows who calls."""

    invoke: Any
    service: str
    method: str
    target: str
    authorization: list[tuple[str, str]] = field(default_factory=list, repr=False)

    async def unary(self, request: Any, *, deadline: float) -> Any:
        """Sends the request and returns the response; CallError when none came within `deadline` seconds."""
        _require_positive("deadline", deadline)
        call = self.invoke(request, timeout=deadline, metadata=self._metadata(request))
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from error

    async def stream(
        self, request: Any, *, silence: float, on_progress: OnProgress | None, standstill: float = math.inf
    ) -> Any:
        """Reads progress events until the result, and returns the result.

        The event after `progress` in the response's oneof is the result. A stream that says nothing for
        `silence` seconds, says the same for `standstill` seconds, or ends without a result, is a CallError;
        the whole may take as long as it likes.
        """
        _require_positive("silence", silence)
        latest: Any = None
        since = time.monotonic()
        call = self.invoke(request, metadata=self._metadata(request))
        try:
            while True:
                response = await self._next(call, silence)
                event = response.WhichOneof("event")
                if event == "progress":
                    if response.progress != latest:
                        latest, since = response.progress, time.monotonic()
                    elif time.monotonic() - since > standstill:
                        message = (
                            f"no progress for {standstill:g} s; it stands at {response.progress.activity!r}"
                        )
                        raise self._failure(grpc.StatusCode.DEADLINE_EXCEEDED, message)
                    if on_progress is not None:
                        on_progress(response.progress)
                elif event is not None:
                    await _let_end(call)
                    return getattr(response, event)
        finally:
            call.cancel()  # a no-op once the stream has ended

    async def _next(self, call: Any, silence: float) -> Any:
        """The stream's next message; CallError when it is silent, fails, or has ended."""
        try:
            response = await asyncio.wait_for(call.read(), silence)
        except asyncio.TimeoutError as error:
            message = f"no sign of life for {silence:g} s; the service may still be at it"
            raise self._failure(grpc.StatusCode.DEADLINE_EXCEEDED, message) from error
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from error
        if response is grpc.aio.EOF:
            raise self._failure(grpc.StatusCode.UNKNOWN, "the stream ended without a result")
        return response

    def _metadata(self, request: Any) -> list[tuple[str, str]]:
        header = getattr(request, "header", None)
        return [*call_metadata(header.request_id if header is not None else ""), *self.authorization]

    def _error(self, error: grpc.aio.AioRpcError) -> CallError:
        return CallError.from_rpc(error, service=self.service, method=self.method, target=self.target)

    def _failure(self, code: grpc.StatusCode, message: str) -> CallError:
        return CallError(code, message, service=self.service, method=self.method, target=self.target)


async def _let_end(call: Any) -> None:
    """Lets the service close the stream, so that it counts the call as OK and not as cancelled by us.

    The result is here already: whatever goes wrong now changes nothing.
    """
    try:
        await asyncio.wait_for(call.read(), CLOSING_SECONDS)
    except (asyncio.TimeoutError, grpc.aio.AioRpcError):
        pass


def _require_positive(name: str, seconds: float) -> None:
    if not seconds > 0:
        raise ValueError(f"{name}: must be above 0 seconds; got {seconds!r}")
