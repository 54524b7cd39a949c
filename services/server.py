"""The one bootstrap: what every service process does beside its own work.

    class EchoApplication:
        def __init__(self, host: Host) -> None: ...               # no model yet: ports are bound first
        def add_to(self, server: grpc.aio.Server) -> None:        # the generated add_XServicer_to_server
            add_EchoServiceServicer_to_server(EchoServicer(self), server)
        async def start(self) -> None:                            # load, then say so; may go on for ever
            await self.host.work.run(self.load)
            await self.host.set_ready(True)

    settings = parse_settings(EchoSettings, "python -m services.echo")
    run("trueline.v1.EchoService", EchoApplication, settings)           # the end of main()

    async with running("trueline.v1.EchoService", EchoApplication, ServerSettings()) as server:   # in tests
        channel = grpc.aio.insecure_channel(server.address)

Health: "" is SERVING while the process lives, the service's name while set_ready(True) holds; both are
NOT_SERVING from the first SIGTERM on. Then no call is accepted, running ones may end within `grace`, and the
exit code is 0. A second SIGTERM or SIGINT ends the process at once. An exception from start() ends it, with
exit code 1.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn, Protocol

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry

from services.artifact_root import ArtifactRoot
from services.calls import CallInterceptor
from services.door import Door
from services.logs import set_up_logs
from services.rpc_metrics import RpcMetrics, new_registry, serve_metrics
from services.scopes import SCOPE_OF_ROUTE
from services.settings import ServerSettings
from services.work import Work
from trueline.http_door import HttpServer
from trueline.tls_files import server_credentials

log = logging.getLogger(__name__)

MIN_PING_INTERVAL_SECONDS = 30
KEEPALIVE_SECONDS = 60
STDIN_CLOSED_GRACE_SECONDS = 1.0
PR_SET_PDEATHSIG = 1  # of linux/prctl.h

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Host:
    """What the bootstrap gives an application: settings, worker threads, metrics registry, readiness."""

    def __init__(self, service: str, settings: ServerSettings) -> None:
        self.service, self.settings = service, settings
        self.registry: CollectorRegistry = new_registry()
        self.work = Work(settings.work_threads, settings.max_waiting, self.registry)
        self.health = health.aio.HealthServicer()

    async def set_ready(self, ready: bool) -> None:
        """Says to health probes and balancers whether a committed version is loaded and can serve."""
        await self.health.set(self.service, SERVING if ready else NOT_SERVING)


class Application(Protocol):
    """A service's own part."""

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds the servicer. Nothing has been loaded yet."""

    async def start(self) -> None:
        """Loads, then calls host.set_ready(True); may go on for ever. Cancelled at the end of the process."""


class Server:
    """One service on its ports."""

    def __init__(self, service: str, build: Callable[[Host], Application], settings: ServerSettings) -> None:
        self.host = Host(service, settings)
        self.address = self.metrics_address = self.health_address = ""
        self._settings = settings
        faults = ServerSettings.faults(settings)
        if faults:
            raise ValueError("; ".join(faults))
        self._tls, self._tokens = settings.tls_files(), settings.token_file()
        door = Door(self._tokens, ArtifactRoot(settings.artifact_root, settings.hub_names))
        self._calls = CallInterceptor(RpcMetrics(self.host.registry))
        self._server = grpc.aio.server(interceptors=(self._calls, door), options=_options(settings))
        self.application = build(self.host)
        self._add_services()

    def _add_services(self) -> None:
        self.application.add_to(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self.host.health, self._server)
        if self._settings.reflection:
            names = (self.host.service, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)

    async def start(self) -> asyncio.Task[None]:
        """Binds, serves, writes the ready file; the task is the application's start()."""
        await self.host.set_ready(False)
        self.address = self._bind(self._settings.address)
        address, door = self._settings.metrics_address, {"tls": self._tls, "tokens": self._tokens}
        self._metrics = serve_metrics(self.host.registry, address, **door, scopes=SCOPE_OF_ROUTE)
        self.metrics_address = self._metrics.address
        await self._server.start()
        await self._start_health()
        if self._settings.ready_file:
            _write_ready_file(self._settings.ready_file, self.address, self.metrics_address)
        log.info("listening", extra={"address": self.address, "metrics_address": self.metrics_address})
        self._start = asyncio.create_task(self.application.start())
        return self._start

    async def started(self) -> None:
        """Waits for the application's start() to end; raises what it raised."""
        await asyncio.shield(self._start)

    def _bind(self, address: str) -> str:
        host, _, _ = address.rpartition(":")
        if self._tls is None:
            return f"{host}:{self._server.add_insecure_port(address)}"
        return f"{host}:{self._server.add_secure_port(address, server_credentials(self._tls))}"

    async def _start_health(self) -> None:
        """The port for probes that speak no TLS: health and nothing else."""
        self._health = (
            grpc.aio.server(options=_options(self._settings)) if self._settings.health_address else None
        )
        if self._health is not None:
            health_pb2_grpc.add_HealthServicer_to_server(self.host.health, self._health)
            host, _, _ = self._settings.health_address.rpartition(":")
            self.health_address = f"{host}:{self._health.add_insecure_port(self._settings.health_address)}"
            await self._health.start()

    async def drain(self, grace: float) -> None:
        """NOT_SERVING at once; then nothing more is accepted, and running calls have `grace` seconds."""
        await self.host.health.enter_graceful_shutdown()
        stopped = asyncio.create_task(self._server.stop(grace))
        try:
            await asyncio.wait_for(self._calls.idle(), grace)
        except asyncio.TimeoutError:
            log.warning("calls cut off", extra={"calls": self._calls.running, "grace_seconds": grace})
        self._calls.end_quiet_calls()
        await stopped
        if self._health is not None:
            await self._health.stop(0)
        self._start.cancel()
        # It polls for the end twice a second, and nobody needs to wait for that.
        threading.Thread(target=_end_metrics, args=(self._metrics,), daemon=True).start()


def _end_metrics(server: HttpServer) -> None:
    server.shutdown()
    server.server_close()


def _options(settings: ServerSettings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        # Clients may ping as often as this; more often is answered with GOAWAY too_many_pings.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", MIN_PING_INTERVAL_SECONDS * 1000),
        # Finds clients that died without a word, and so ends their calls.
        ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.max_connection_age_ms", int(settings.max_connection_age * 1000)),
        ("grpc.max_connection_age_grace_ms", int(settings.max_connection_age_grace * 1000)),
        # A taken port is an error, not half of the calls.
        ("grpc.so_reuseport", 0),
    ]


def _write_ready_file(path: Path, address: str, metrics_address: str) -> None:
    content = {"address": address, "metrics_address": metrics_address, "pid": os.getpid()}
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    beside.write_text(json.dumps(content))
    beside.replace(path)


@asynccontextmanager
async def running(
    service: str, build: Callable[[Host], Application], settings: ServerSettings
) -> AsyncIterator[Server]:
    """A service in this process, on its ports until the block ends."""
    server = Server(service, build, settings)
    await server.start()
    try:
        yield server
    finally:
        await server.drain(settings.grace)


def run(service: str, build: Callable[[Host], Application], settings: ServerSettings) -> NoReturn:
    """Serves until a signal, or until standard input closes; then exits. Does not return."""
    set_up_logs(settings.log_format)
    asyncio.run(_serve(service, build, settings))
    raise AssertionError("_serve ends the process")


async def _serve(service: str, build: Callable[[Host], Application], settings: ServerSettings) -> NoReturn:
    try:
        code = await _serve_until_stopped(service, build, settings)
    except Exception:
        log.exception("the service could not run", extra={"service": service})
        code = 1
    # Here and not behind asyncio.run, which waits for threads, whose batch may take minutes yet.
    _exit(code)


async def _serve_until_stopped(
    service: str, build: Callable[[Host], Application], settings: ServerSettings
) -> int:
    stop = asyncio.Event()
    _watch_signals(stop)
    if settings.until_stdin_closes:
        _die_with_parent()
        _watch_stdin(asyncio.get_running_loop(), stop)
    server = Server(service, build, settings)
    start = await server.start()
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({start, stopped}, return_when=asyncio.FIRST_COMPLETED)
    failed = start.done() and start.exception()
    if failed:
        log.error("start failed", exc_info=failed, extra={"service": service})
    else:
        await stopped
        log.info("draining", extra={"grace_seconds": settings.grace})
    await server.drain(settings.grace)
    log.info("stopped")
    return 1 if failed else 0


def _watch_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def signalled(number: int) -> None:
        if stop.is_set():
            log.warning("second signal: stopping at once", extra={"signal": signal.Signals(number).name})
            _exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled, number)


def _die_with_parent() -> None:
    """Has the kernel kill us when our parent ends: a stopped process (SIGSTOP) sees no end of its stdin."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _watch_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Ends the process soon after standard input closes: in mid-call, and even with the event loop stuck."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        # Started first: whatever else hangs, this thread ends the process.
        threading.Timer(STDIN_CLOSED_GRACE_SECONDS, os._exit, (0,)).start()
        loop.call_soon_threadsafe(stop.set)
        log.warning("standard input closed: stopping")

    threading.Thread(target=watch, name="stdin", daemon=True).start()


def _exit(code: int) -> NoReturn:
    """Ends the process, threads and all."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)
