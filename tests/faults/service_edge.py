"""The fault layer at the edge of a service: outermost of its interceptors, so that all of it is in reach.

A call claims at most one fault as it arrives. `before` strikes with the request not yet seen, `during` while
the handler works, `after` with the work done and the answer not sent.
"""

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc

from tests.faults.clock import jump
from tests.faults.disk import corrupted, full_disk
from tests.faults.plan import FaultPlan, Fired

REORDER_SECONDS = 1.0  # a held request goes on alone where no other comes
DURING_SECONDS = 0.02
PACKAGE = "/trueline.v1."


def install_service_edge(plan: FaultPlan, service: str) -> None:
    """Every server of this process begins with the fault interceptor."""
    real = grpc.aio.server

    def server(*args: Any, interceptors: Any = (), **kwargs: Any) -> grpc.aio.Server:
        return real(*args, interceptors=(FaultInterceptor(plan, service), *(interceptors or ())), **kwargs)

    grpc.aio.server = server


class FaultInterceptor(grpc.aio.ServerInterceptor):
    """Claims a fault for each call of ours and lets it strike; health and reflection pass untouched."""

    def __init__(self, plan: FaultPlan, service: str) -> None:
        self.plan, self.service = plan, service
        self.settings = plan.settings
        self.passed = asyncio.Event()  # set, and made anew, whenever a request is handed on

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """The method's handler with the faults around it."""
        handler = await continuation(details)
        if handler is None or not details.method.startswith(PACKAGE):
            return handler
        method = details.method.rpartition("/")[2]
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._streaming(method, handler.unary_stream),
                handler.request_deserializer,
                handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(method, handler.unary_unary),
            handler.request_deserializer,
            handler.response_serializer,
        )

    def _unary(self, method: str, inner: Any) -> Any:
        async def behaviour(request: Any, context: Any) -> Any:
            fired = self.plan.claim(self.service, "service", method)
            async with self._around(fired, request, context):
                response = await inner(request, context)
            await strike(fired, "after", context)
            return response

        return behaviour

    def _streaming(self, method: str, inner: Any) -> Any:
        async def behaviour(request: Any, context: Any) -> AsyncIterator[Any]:
            fired = self.plan.claim(self.service, "service", method)
            async with (
                self._around(fired, request, context),
                contextlib.aclosing(inner(request, context)) as responses,
            ):
                async for response in responses:
                    if response.WhichOneof("event") not in (None, "progress"):
                        await strike(fired, "after", context)
                    yield response

        return behaviour

    @contextlib.asynccontextmanager
    async def _around(self, fired: Fired | None, request: Any, context: Any) -> AsyncIterator[None]:
        """What strikes before the work, and what lasts while it is done."""
        if fired is not None and fired.fault.kind == "reorder":
            await self._hold(fired)
        await strike(fired, "before", context)
        self.passed.set()
        self.passed = asyncio.Event()
        with contextlib.ExitStack() as lasting:
            if fired is not None:
                lasting.enter_context(self._lasting(fired, request))
            yield

    async def _hold(self, fired: Fired) -> None:
        """Keeps a request back until a later one of this service has been handed on."""
        try:
            await asyncio.wait_for(self.passed.wait(), REORDER_SECONDS)
            fired.tell(swapped=True)
        except asyncio.TimeoutError:
            fired.tell(swapped=False)

    @contextlib.contextmanager
    def _lasting(self, fired: Fired, request: Any) -> Iterator[None]:
        fault = fired.fault
        if fault.edge == "during" and fault.kind in ("die", "hang"):
            number = signal.SIGKILL if fault.kind == "die" else signal.SIGSTOP
            threading.Timer(DURING_SECONDS, os.kill, (os.getpid(), number)).start()
        if fault.kind == "corrupt":
            file = file_named(request, fault.detail)
            fired.tell(file=str(file))
            with corrupted(file):
                yield
        elif fault.kind == "full-disk":
            cure = full_disk(self.settings.get("disk", ""))
            try:
                yield
            finally:
                # Not at once: whoever tries again meanwhile finds it full still.
                threading.Timer(fault.seconds, cure).start()
        else:
            yield


async def strike(fired: Fired | None, edge: str, context: Any) -> None:
    """A fault that is due at this edge of the call."""
    if fired is None or fired.fault.edge != edge:
        return
    fault = fired.fault
    if fault.kind == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault.kind == "hang" and fault.detail == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif fault.kind == "hang":
        await asyncio.Event().wait()  # ends with the caller's patience
    elif fault.kind == "slow":
        await asyncio.sleep(fault.seconds)
    elif fault.kind == "unavailable":
        await context.abort(grpc.StatusCode.UNAVAILABLE, f"fault {fault.number}: unavailable {edge} the work")
    elif fault.kind == "clock-jump":
        jump(fault.seconds)


def file_named(request: Any, detail: str) -> Path:
    """The file that a request leads to: a payload, a model's shard or manifest, a checkpoint's tensors."""
    if detail == "payload":
        return Path(request.artifact.uri)
    if detail == "checkpoint":
        return Path(request.checkpoint.uri) / "tensors.safetensors"
    directory = Path(request.location.uri)
    return directory / ("manifest.json" if detail == "manifest" else "model.safetensors")
