"""A service that does what its request says, on all four kinds of method; as a process it is served for real.

b"echo"        answers with the request
b"sleep 2"     waits on the event loop
b"compute 2"   multiplies matrices on the worker thread, as a batch would
b"spin 2"      holds the interpreter in pure Python on the worker thread
b"FieldError"  raises the exception of that name (see ERRORS)
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import torch

from services.errors import (
    AlreadyExistsError,
    BusyError,
    FieldError,
    FieldErrors,
    NotReadyError,
    PreconditionError,
)
from services.server import Host, run
from services.settings import ServerSettings, parse_settings
from services.weights import VersionExists, WeightsDamaged, WeightsError

SERVICE = "scripted.v1.ScriptedService"


class OutOfMemoryError(RuntimeError):
    """Named as torch's, which needs a GPU to be raised."""


ERRORS: dict[str, Exception] = {
    "FieldError": FieldError("sampling.temperature", 0.0, "must be above 0"),
    "FieldErrors": FieldErrors([FieldError("a", 1, "is wrong"), FieldError("b", "x" * 999, "is too long")]),
    "LongError": FieldError("é" * 5000, "x" * 5000, "é" * 5000),
    "ValueError": ValueError("something is wrong"),
    "WeightsError": WeightsError("model.safetensors", "is damaged"),
    "WeightsDamaged": WeightsDamaged("model.safetensors", "is damaged"),
    "DiskFull": OSError(errno.ENOSPC, "No space left on device", "v000001/model.safetensors"),
    "SafetensorError": RuntimeError(
        "Error while serializing: I/O error: No space left on device (os error 28)"
    ),
    "VersionExists": VersionExists("v000001", "holds other bytes"),
    "AlreadyExistsError": AlreadyExistsError("there is one"),
    "PreconditionError": PreconditionError("stale_step", "expected_step: 3 is stale, the stage has done 4"),
    "NotReadyError": NotReadyError("the model is loading", "not_loaded"),
    "BusyError": BusyError("the queue is full", retry_seconds=2.5),
    "MemoryError": MemoryError(),
    "CudaOutOfMemory": OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand a page more"),
    "CpuOutOfMemory": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
    "KeyError": KeyError("secret"),
    "RuntimeError": RuntimeError("a fault of ours"),
    "NotImplementedError": NotImplementedError("no such engine"),
}


def compute(seconds: float) -> None:
    """One thread of torch, busy for so long."""
    end, matrix = time.monotonic() + seconds, torch.randn(384, 384)
    while time.monotonic() < end:
        matrix = torch.tanh(matrix @ matrix)


def spin(seconds: float) -> None:
    """Pure Python, which gives the interpreter up only when it is made to."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


class ScriptedApplication:
    """Ready at once."""

    def __init__(self, host: Host) -> None:
        self.host = host

    async def start(self) -> None:
        await self.host.set_ready(True)

    def add_to(self, server: grpc.aio.Server) -> None:
        handlers = {
            "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "ServerStream": grpc.unary_stream_rpc_method_handler(self.server_stream),
            "ClientStream": grpc.stream_unary_rpc_method_handler(self.client_stream),
            "BidiStream": grpc.stream_stream_rpc_method_handler(self.bidi_stream),
            "Writing": grpc.stream_stream_rpc_method_handler(self.writing),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    async def play(self, request: bytes) -> bytes:
        word, _, argument = request.decode().partition(" ")
        if word in ERRORS:
            # From the worker thread, where the errors of model work come from.
            await self.host.work.run(_raise, ERRORS[word])
        elif word == "sleep":
            await asyncio.sleep(float(argument))
        elif word in ("compute", "spin"):
            await self.host.work.run({"compute": compute, "spin": spin}[word], float(argument))
        return request

    async def unary(self, request: bytes, context: Any) -> bytes:
        return await self.play(request)

    async def server_stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        yield await self.play(request)

    async def client_stream(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return b" ".join([await self.play(request) async for request in requests])

    async def bidi_stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield await self.play(request)

    async def writing(self, requests: AsyncIterator[bytes], context: Any) -> None:
        """The other style of streaming: reads and writes through the context."""
        while (request := await context.read()) is not grpc.aio.EOF:
            await context.write(await self.play(request))


def _raise(error: Exception) -> None:
    raise error


class Caller:
    """Calls the methods of the scripted service over a channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.unary = channel.unary_unary(f"/{SERVICE}/Unary")
        self.server_stream = channel.unary_stream(f"/{SERVICE}/ServerStream")
        self.client_stream = channel.stream_unary(f"/{SERVICE}/ClientStream")
        self.bidi_stream = channel.stream_stream(f"/{SERVICE}/BidiStream")
        self.writing = channel.stream_stream(f"/{SERVICE}/Writing")

    async def outcome(self, method: str, *requests: bytes, timeout: float = 30.0) -> list[bytes]:
        """All responses to the requests, whichever kind the method is."""
        sent: Any = list(requests) if method in ("client_stream", "bidi_stream", "writing") else requests[0]
        call = getattr(self, method)(sent, timeout=timeout)
        if method in ("unary", "client_stream"):
            return [await call]
        return [response async for response in call]


METHODS = ("unary", "server_stream", "client_stream", "bidi_stream", "writing")

if __name__ == "__main__":
    torch.set_num_threads(1)
    run(SERVICE, ScriptedApplication, parse_settings(ServerSettings, "scripted"))
