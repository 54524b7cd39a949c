"""What the clients share: a channel that opens late, deadlines, and which replica a call goes to."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from trueline.access import Access
from trueline.calls import OnProgress, Rpc
from trueline.channel import Target, open_channel
from trueline.health import check
from trueline.v1 import types_pb2

Self = TypeVar("Self", bound="ServiceClient")

# Deadlines in seconds. Services report progress at least every 2 s, stuck or not.
QUESTION_DEADLINE = 10.0
SILENCE = 60.0
STANDSTILL = 3600.0


class ServiceClient:
    """A client of one service; an async context manager. The channel opens at the first call and is reused.

    target      "host:port", a list of these (balanced in turn over the healthy ones), or "dns:///name:port"
    deadline    seconds for every unary call, in place of the methods' own defaults
    silence     seconds that a stream may say nothing
    standstill  seconds that a stream may tell of the same progress again and again
    access      TLS and token; by default those of the environment (see trueline/access.py)
    """

    SERVICE: ClassVar[ServiceDescriptor]
    STUB: ClassVar[Any]
    # Calls are balanced over healthy replicas; a service whose calls must reach it unready says False.
    BALANCED: ClassVar[bool] = True
    # What `wait_until_ready` asks after.
    READY_SERVICE: ClassVar[str]

    def __init__(
        self,
        target: Target,
        *,
        deadline: float | None = None,
        silence: float = SILENCE,
        standstill: float = STANDSTILL,
        access: Access | None = None,
    ) -> None:
        self.addresses = [target] if isinstance(target, str) else list(target)
        self.target = ",".join(self.addresses)
        self._deadline, self._silence, self._standstill = deadline, silence, standstill
        self._balanced = self.BALANCED
        if not self.BALANCED and len(self.addresses) != 1:
            raise ValueError(f"target: {self.SERVICE.name} has one address; got {self.target!r}")
        self.access = Access.from_environment() if access is None else access
        self._access_state = self.access.state()
        self._channel: grpc.aio.Channel | None = None
        self._stub: Any = None
        self._retired: list[grpc.aio.Channel] = []

    @classmethod
    def direct(cls: type[Self], address: str, **limits: Any) -> Self:
        """A client of one replica, healthy or not: for load_weights, and for asking what it serves."""
        client = cls(address, **limits)
        client._balanced = False
        return client

    async def __aenter__(self: Self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connections. A later call opens new ones."""
        self.reconnect()
        channels, self._retired = self._retired, []
        for channel in channels:
            await channel.close()

    def reconnect(self) -> None:
        """Has the next call open a new connection; calls under way end on the old one, as they may.

        For a peer that went silent: a connection whose other end vanished without a word looks alive.
        """
        channel, self._channel, self._stub = self._channel, None, None
        if channel is not None:
            self._retired.append(channel)

    async def health(self, service: str | None = None, *, deadline: float = QUESTION_DEADLINE) -> str:
        """What grpc.health.v1 says of this service, or of "" (the process): "SERVING", "NOT_SERVING", ..."""
        asked = self.SERVICE.full_name if service is None else service
        return await check(self._open(), asked, target=self.target, deadline=deadline)

    def _open(self) -> grpc.aio.Channel:
        state = self.access.state()
        if state != self._access_state:
            # A channel keeps the certificates that it was opened with.
            self._access_state = state
            self.reconnect()
        if self._channel is None:
            # Not in the constructor: a channel belongs to the event loop, and to the process after a fork.
            self._channel = open_channel(
                self.addresses, self.SERVICE, health=self._balanced, access=self.access
            )
            self._stub = self.STUB(self._channel)
        return self._channel

    def _rpc(self, method: str) -> Rpc:
        self._open()
        stub = getattr(self._stub, method)
        return Rpc(stub, self.SERVICE.full_name, method, self.target, self.access.metadata())

    async def _unary(self, method: str, request: Any, deadline: float | None, default: float) -> Any:
        seconds = next(each for each in (deadline, self._deadline, default) if each is not None)
        return await self._rpc(method).unary(request, deadline=seconds)

    async def _stream(
        self, method: str, request: Any, silence: float | None, on_progress: OnProgress | None
    ) -> Any:
        return await self._rpc(method).stream(
            request,
            silence=self._silence if silence is None else silence,
            standstill=self._standstill,
            on_progress=on_progress,
        )

    async def _load_weights(
        self, request: Any, silence: float | None, on_progress: OnProgress | None
    ) -> types_pb2.LoadedModel:
        self._require_direct("load_weights")
        loaded: types_pb2.LoadedModel = await self._stream("LoadWeights", request, silence, on_progress)
        return loaded

    def _require_direct(self, method: str) -> None:
        if self._balanced:
            name = type(self).__name__
            raise ValueError(f"{method} goes to one replica, ready or not: use {name}.direct(address)")


def message_of(kind: Any, request: Any, fields: dict[str, Any]) -> Any:
    """The request as given, or built from its fields; ValueError for both at once and for unknown fields."""
    if request is None:
        return kind(**fields)
    if fields:
        raise ValueError(f"{kind.DESCRIPTOR.name}: give the message or its fields, not both")
    if not isinstance(request, kind):
        raise TypeError(f"expected a {kind.DESCRIPTOR.name}; got {type(request).__name__}")
    return request
