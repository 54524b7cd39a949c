"""The fault layer in the orchestrator: around each of its calls, and on the connections below them.

It also keeps a record of every call, limit and duration, by which hangs are found: a call must end within
its deadline, and a stream must not be silent for longer than it may be.
"""

import asyncio
import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from tests.faults.clock import jump
from tests.faults.disk import full_disk
from tests.faults.plan import FaultPlan, Fired
from tests.faults.relay import Relay
from tests.faults.service_edge import DURING_SECONDS
from trueline.calls import Rpc
from trueline.context import ROUND_KEY, call_metadata
from trueline.errors import CallError

Send = Callable[[Any], Awaitable[Any]]


def install_caller_edge(plan: FaultPlan) -> None:
    """Every call of this process passes the faults, and every channel the relay."""
    edge = CallerEdge(plan)
    real_unary, real_stream, real_next = Rpc.unary, Rpc.stream, Rpc._next
    real_channel = grpc.aio.insecure_channel

    async def unary(self: Rpc, request: Any, *, deadline: float) -> Any:
        limit = min(deadline, edge.deadline)

        async def send(message: Any) -> Any:
            with edge.recorded(self, "deadline", limit):
                return await real_unary(self, message, deadline=limit)

        return await edge.call(self, request, send)

    async def stream(self: Rpc, request: Any, **limits: Any) -> Any:
        async def send(message: Any) -> Any:
            return await real_stream(self, message, **limits)

        return await edge.call(self, request, send)

    async def read(self: Rpc, call: Any, silence: float) -> Any:
        with edge.recorded(self, "silence", silence):
            return await real_next(self, call, silence)

    def channel(target: str, *args: Any, **kwargs: Any) -> grpc.aio.Channel:
        relayed = [edge.relay.through(each) for each in target.removeprefix("ipv4:").split(",")]
        scheme = "ipv4:" if target.startswith("ipv4:") else ""
        return real_channel(scheme + ",".join(relayed), *args, **kwargs)

    # A frozen dataclass guards its instances; the class itself may be changed.
    Rpc.unary, Rpc.stream, Rpc._next = unary, stream, read  # type: ignore[method-assign]
    grpc.aio.insecure_channel = channel


class CallerEdge:
    """What strikes at the orchestrator's calls, and the record of them."""

    def __init__(self, plan: FaultPlan) -> None:
        self.plan, self.settings, self.relay = plan, plan.settings, Relay()
        # Shorter than the methods' own, so that a hang of a minute does not take ten.
        self.deadline = float(self.settings["deadline"])
        path = plan.directory / "calls" / f"{os.getpid()}.jsonl"
        self.calls = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.latest: dict[tuple[str, str], Any] = {}  # of each method, for late repeats
        self.round = 0

    async def call(self, rpc: Rpc, request: Any, send: Send) -> Any:
        """One call of the orchestrator's, with the fault that it claims, if any."""
        self._notice_round()
        service = service_of(rpc)
        fired = self.plan.claim(service, "caller", rpc.method)
        before, self.latest[service, rpc.method] = self.latest.get((service, rpc.method)), request
        if fired is None:
            return await send(request)
        if fired.fault.kind == "duplicate" and fired.fault.detail == "together":
            return await together(fired, request, send)
        async with self._around(fired, rpc):
            result = await send(request)
        if fired.fault.kind == "duplicate":
            await late(fired, request if before is None else before, send)
        return result

    @contextlib.asynccontextmanager
    async def _around(self, fired: Fired, rpc: Rpc) -> AsyncIterator[None]:
        fault = fired.fault
        if fault.kind == "die":
            if fault.edge == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            if fault.edge == "during":
                threading.Timer(DURING_SECONDS, os.kill, (os.getpid(), signal.SIGKILL)).start()
        elif fault.kind == "half-open":
            fired.tell(connections=sum(self.relay.freeze(each) for each in rpc.target.split(",")))
        elif fault.kind == "corrupt":
            fired.tell(connections=sum(self.relay.corrupt(each) for each in rpc.target.split(",")))
        elif fault.kind == "clock-jump":
            jump(fault.seconds)
        yield
        if fault.kind == "die" and fault.edge == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault.kind == "full-disk":  # what the answer brings cannot be kept
            threading.Timer(fault.seconds, full_disk(self.settings.get("disk", ""))).start()

    @contextlib.contextmanager
    def recorded(self, rpc: Rpc, limit: str, seconds: float) -> Any:
        """Keeps how long a call, or a stream's silence, lasted against its limit."""
        began, code = time.monotonic(), "OK"
        try:
            yield
        except CallError as error:
            code = error.code.name
            raise
        except BaseException as error:
            code = type(error).__name__
            raise
        finally:
            lasted = time.monotonic() - began
            line = {"service": service_of(rpc), "method": rpc.method, "limit": limit, "of": seconds}
            line |= {"seconds": round(lasted, 4), "code": code}
            os.write(self.calls, (json.dumps(line) + "\n").encode())

    def _notice_round(self) -> None:
        number = int(dict(call_metadata()).get(ROUND_KEY, 0))
        if number > self.round:
            self.round = number
            self.plan.reach(number)


def service_of(rpc: Rpc) -> str:
    """ "policy" of trueline.v1.PolicyService."""
    return rpc.service.rpartition(".")[2].removesuffix("Service").lower()


async def together(fired: Fired, request: Any, send: Send) -> Any:
    """The same request twice at once; the run gets the first's answer, the record says if two agree."""
    first, second = await asyncio.gather(send(request), send(request), return_exceptions=True)
    fired.tell(first=outcome(first), repeat=outcome(second))
    if not isinstance(first, BaseException) and not isinstance(second, BaseException):
        fired.tell(equal=untimed(first) == untimed(second))  # another fault may have struck either one
    if isinstance(first, BaseException):
        raise first
    return first


async def late(fired: Fired, request: Any, send: Send) -> None:
    """The request before this one once more, behind the newer one: its answer is nobody's."""
    try:
        answer: Any = await send(request)
    except CallError as error:
        answer = error
    fired.tell(repeat=outcome(answer))


def outcome(answer: Any) -> str:
    """OK, or the code (and reason) of the error."""
    if isinstance(answer, CallError):
        return f"{answer.code.name} {answer.reason}".strip()
    return "OK" if not isinstance(answer, BaseException) else type(answer).__name__


def untimed(answer: Any) -> Any:
    """An answer without the timing that each call has of its own."""
    copy = type(answer)()
    copy.CopyFrom(answer)
    if "timing" in copy.DESCRIPTOR.fields_by_name:
        copy.ClearField("timing")
    return copy.SerializeToString(deterministic=True)
