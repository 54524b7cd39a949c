"""A relay between the orchestrator and its services: half-open connections and bytes that arrive wrong.

It runs on a thread of its own in the orchestrator's process, and outlives every service: when a service dies
behind a frozen connection, no FIN comes through, as when a machine vanishes.
"""

import asyncio
import contextlib
import threading
from dataclasses import dataclass, field

READ_BYTES = 1 << 16
START_SECONDS = 10.0
# No frame of HTTP/2 begins so: a length of 16 MiB - 1 is beyond every limit.
GARBAGE = b"\xff" * 9


@dataclass(eq=False)
class Connection:
    """One connection through the relay."""

    frozen: bool = False
    corrupt_next: bool = False


@dataclass
class Upstream:
    """One service's address, the relay's port for it, and the connections there are."""

    address: str
    port: int = 0
    connections: set[Connection] = field(default_factory=set)


class Relay:
    """relay.through("127.0.0.1:40123") is an address that leads there; `freeze` and `corrupt` name it."""

    def __init__(self) -> None:
        self.upstreams: dict[str, Upstream] = {}
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._kept: set[object] = set()  # else a frozen task is collected, and its socket says goodbye
        self._thread: threading.Thread | None = None

    def through(self, address: str) -> str:
        """The relay's address for a service's, the same for as long as this process lives."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)
                self._thread.start()
            if address not in self.upstreams:
                opening = asyncio.run_coroutine_threadsafe(self._listen(address), self._loop)
                self.upstreams[address] = opening.result(START_SECONDS)
        return f"127.0.0.1:{self.upstreams[address].port}"

    def freeze(self, address: str) -> int:
        """Stops forwarding on every connection there is now, without closing any; how many these are."""
        return self._mark(address, "frozen")

    def corrupt(self, address: str) -> int:
        """Replaces the head of the next bytes from the service on every connection; how many these are."""
        return self._mark(address, "corrupt_next")

    def _mark(self, address: str, what: str) -> int:
        upstream = self.upstreams.get(address)
        found = [] if upstream is None else [each for each in upstream.connections if not each.frozen]
        for connection in found:
            setattr(connection, what, True)
        return len(found)

    async def _listen(self, address: str) -> Upstream:
        upstream = Upstream(address)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._serve(upstream, reader, writer)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        upstream.port = server.sockets[0].getsockname()[1]
        return upstream

    async def _serve(
        self, upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        host, _, port = upstream.address.rpartition(":")
        try:
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.transport.abort()  # as the refusal that it stands for
            return
        connection = Connection()
        upstream.connections.add(connection)
        self._kept.add(asyncio.current_task())
        pumps: set[asyncio.Future[None]] = {
            asyncio.ensure_future(pump(reader, far_writer, connection, answers=False)),
            asyncio.ensure_future(pump(far_reader, writer, connection, answers=True)),
        }
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for each in pumps:
            each.cancel()
        upstream.connections.discard(connection)
        self._kept.discard(asyncio.current_task())
        for end in (writer, far_writer):
            end.transport.abort()


async def pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: Connection, *, answers: bool
) -> None:
    """Forwards one direction until it ends; a frozen connection forwards nothing and never ends."""
    with contextlib.suppress(OSError):
        while data := await reader.read(READ_BYTES):
            if connection.frozen:
                break
            if answers and connection.corrupt_next:
                connection.corrupt_next = False
                data = GARBAGE + data[len(GARBAGE) :]
            writer.write(data)
            await writer.drain()
    if connection.frozen:
        await asyncio.Event().wait()
