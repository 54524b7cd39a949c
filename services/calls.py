"""The one interceptor: every call, unary or streaming, is counted, timed, logged, and its errors are mapped.

server = grpc.aio.server(interceptors=(CallInterceptor(RpcMetrics(registry)),))
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
from grpc_status import rpc_status

from services.logs import call_fields
from services.rpc_metrics import Method, RpcMetrics
from services.status import is_trouble, rich_status, status_of

log = logging.getLogger(__name__)

METADATA_FIELDS = {"trueline-run": "run", "trueline-round": "round", "trueline-request-id": "request_id"}
HEADER_FIELDS = {"run_id": "run", "request_id": "request_id"}
FIELD_CHARACTERS = 200
# Asked every few seconds by every prober: their lines would drown the others'.
QUIET_SERVICES = ("grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection")


_STOPPING = rich_status(grpc.StatusCode.UNAVAILABLE, "the service stops", [])


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps all four kinds of handler; knows which calls run, for the drain."""

    def __init__(self, metrics: RpcMetrics) -> None:
        self._metrics = metrics
        self._running: set[Call] = set()
        self._changed = asyncio.Event()

    @property
    def running(self) -> int:
        """Calls under way, health checks and reflection left out."""
        return sum(not call.quiet for call in self._running)

    async def idle(self) -> None:
        """Returns when no call is under way, health checks and reflection left out."""
        while self.running:
            self._changed.clear()
            await self._changed.wait()

    def end_quiet_calls(self) -> None:
        """Ends health watches and reflection streams, which else would last as long as their clients."""
        for call in [call for call in self._running if call.quiet]:
            call.end()

    def began(self, call: Call) -> None:
        """Counts a call in."""
        self._running.add(call)
        self._metrics.started.labels(*call.method.labels).inc()

    def ended(self, call: Call, code: grpc.StatusCode, seconds: float) -> None:
        """Counts a call out and logs its line."""
        self._running.discard(call)
        self._changed.set()
        self._metrics.handled.labels(*call.method.labels, code.name).inc()
        self._metrics.seconds.labels(*call.method.labels).observe(seconds)
        fields = {"service": call.method.service, "method": call.method.name, "code": code.name}
        level = logging.DEBUG if call.quiet else logging.INFO
        log.log(level, "call", extra={**fields, "seconds": round(seconds, 6)})

    def received(self, method: Method) -> None:
        """Counts a message in."""
        self._metrics.received.labels(*method.labels).inc()

    def sent(self, method: Method) -> None:
        """Counts a message out."""
        self._metrics.sent.labels(*method.labels).inc()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """The method's handler, wrapped; None passes, for a method that nobody serves."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        return self._wrapped(handler, handler_call_details.method)

    def _wrapped(self, handler: Any, path: str) -> grpc.RpcMethodHandler:
        kind = (bool(handler.request_streaming), bool(handler.response_streaming))
        attribute, type_name, make = _KINDS[kind]
        service, _, name = path.lstrip("/").partition("/")
        method = Method(type_name, service, name)
        inner = getattr(handler, attribute)

        def call_for(context: Any) -> Call:
            return Call(self, method, context)

        behaviour = _streaming(inner, call_for) if handler.response_streaming else _unary(inner, call_for)
        return make(behaviour, handler.request_deserializer, handler.response_serializer)


_KINDS: dict[tuple[bool, bool], tuple[str, str, Any]] = {
    (False, False): ("unary_unary", "unary", grpc.unary_unary_rpc_method_handler),
    (True, False): ("stream_unary", "client_stream", grpc.stream_unary_rpc_method_handler),
    (False, True): ("unary_stream", "server_stream", grpc.unary_stream_rpc_method_handler),
    (True, True): ("stream_stream", "bidi_stream", grpc.stream_stream_rpc_method_handler),
}


def _unary(inner: Any, call_for: Callable[[Any], Call]) -> Any:
    async def behaviour(request: Any, context: Any) -> Any:
        async with call_for(context) as call:
            response = await inner(call.counted(request), call)
            call.sent()
            return response

    return behaviour


def _streaming(inner: Any, call_for: Callable[[Any], Call]) -> Any:
    """Handlers that yield, and handlers that call context.write (health's Watch does)."""

    async def yielding(request: Any, context: Any) -> AsyncGenerator[Any, None]:
        async with call_for(context) as call, aclosing(inner(call.counted(request), call)) as responses:
            async for response in responses:
                yield response
                call.sent()

    async def writing(request: Any, context: Any) -> None:
        async with call_for(context) as call:
            await inner(call.counted(request), call)

    return yielding if inspect.isasyncgenfunction(inner) else writing


class Call:
    """One call under way, and the context its handler sees: it counts what is read and written through it."""

    def __init__(self, interceptor: CallInterceptor, method: Method, context: Any) -> None:
        self._interceptor, self.method, self._context = interceptor, method, context
        self.quiet = method.service in QUIET_SERVICES
        self._task = asyncio.current_task()
        self._ended_here = False
        self._began = time.perf_counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, message: Any) -> None:
        """As the context's."""
        await self._context.write(message)
        self.sent()

    async def read(self) -> Any:
        """As the context's."""
        message = await self._context.read()
        if message is not grpc.aio.EOF:
            self._interceptor.received(self.method)
        return message

    def sent(self) -> None:
        """Counts a message out."""
        self._interceptor.sent(self.method)

    def counted(self, request: Any) -> Any:
        """The request, or the stream of requests, counted in; its header names the call in the log."""
        if hasattr(request, "__aiter__"):
            return self._counted_stream(request)
        self._interceptor.received(self.method)
        _name_call(_header_fields(request))
        return request

    async def _counted_stream(self, requests: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
        async for request in requests:
            self._interceptor.received(self.method)
            yield request

    def end(self) -> None:
        """Ends the call from this side, with UNAVAILABLE."""
        self._ended_here = True
        if self._task is not None:
            self._task.cancel()

    async def __aenter__(self) -> Call:
        self._interceptor.began(self)
        _name_call(_metadata_fields(self._context))
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        code, abort = self._code(error), None
        if self._ended_here and isinstance(error, asyncio.CancelledError):
            # grpc leaves a call open whose task was cancelled on this side: it has to be aborted.
            code, abort = grpc.StatusCode.UNAVAILABLE, rpc_status.to_status(_STOPPING)
        elif isinstance(error, Exception) and not isinstance(error, grpc.aio.AbortError):
            code, message, details = status_of(error)
            abort = rpc_status.to_status(rich_status(code, message, details))
            if is_trouble(error):
                log.error("call failed", exc_info=error, extra={"method": self.method.name})
        self._interceptor.ended(self, code, time.perf_counter() - self._began)
        if abort is not None:
            await self._context.abort(abort.code, abort.details, abort.trailing_metadata)

    def _code(self, error: BaseException | None) -> grpc.StatusCode:
        """The code of a call that ended without an exception of ours: as set, aborted, or cut off."""
        if error is not None and not isinstance(error, grpc.aio.AbortError):
            # Cut off from the other side. A deadline and a cancellation look alike but for the clock.
            remaining = self._context.time_remaining()
            timed_out = remaining is not None and remaining <= 0
            return grpc.StatusCode.DEADLINE_EXCEEDED if timed_out else grpc.StatusCode.CANCELLED
        return _status_code(self._context.code())


def _status_code(code: Any) -> grpc.StatusCode:
    # The asyncio context hands out the bare number, 0 or None before anything was set.
    if isinstance(code, grpc.StatusCode):
        return code
    return next((known for known in grpc.StatusCode if known.value[0] == code), grpc.StatusCode.OK)


def _name_call(fields: dict[str, str]) -> None:
    call_fields.set({**call_fields.get(), **fields})


def _metadata_fields(context: Any) -> dict[str, str]:
    sent = dict(context.invocation_metadata() or ())
    return {name: str(sent[key])[:FIELD_CHARACTERS] for key, name in METADATA_FIELDS.items() if sent.get(key)}


def _header_fields(request: Any) -> dict[str, str]:
    header = getattr(request, "header", None)
    found = {name: getattr(header, field, "") for field, name in HEADER_FIELDS.items()}
    return {name: value[:FIELD_CHARACTERS] for name, value in found.items() if value}
