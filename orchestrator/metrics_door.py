"""Where the orchestrator serves /metrics, and who may read there.

On loopback everybody may. Elsewhere it takes TLS and a file of tokens, as at the services, or the word that
the network is to be trusted.
"""

import argparse
import asyncio
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import prometheus_client
from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

from orchestrator.processes import LaunchError
from trueline.access import is_loopback
from trueline.http_door import HttpServer
from trueline.metrics import METRICS
from trueline.tls_files import TlsFiles
from trueline.tokens import TokenFile
from trueline.version import __version__

PREFIX = "metrics_"


@dataclass(frozen=True)
class MetricsDoor:
    """An address, and what whoever reads there has to bring."""

    address: str
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tokens: Path | None = None
    insecure_network: bool = False
    linger: float = 0.0

    @property
    def scheme(self) -> str:
        """http or https."""
        return "https" if self.tls_certificate else "http"

    def opened(self, registry: CollectorRegistry) -> HttpServer:
        """The server, not started. LaunchError where nobody keeps the door or its files cannot be read."""
        host, _, port = self.address.rpartition(":")
        if not (host and port.isdigit()):
            raise LaunchError(f"--metrics-address: must be host:port, is {self.address!r}")
        kept = self.tls_certificate and self.tls_key and self.tokens
        if not (kept or self.insecure_network or is_loopback(self.address)):
            raise LaunchError(
                f"--metrics-address: {self.address} is open to the network: give --metrics-tls-certificate, "
                "--metrics-tls-key and --metrics-tokens, bind to 127.0.0.1, or say --metrics-insecure-network"
            )
        try:
            tls = (
                TlsFiles(self.tls_certificate, self.tls_key)
                if self.tls_certificate and self.tls_key
                else None
            )
            tokens = TokenFile(self.tokens) if self.tokens else None
            application = prometheus_client.make_wsgi_app(registry)
            return HttpServer(self.address, application, tls=tls, tokens=tokens)
        except (OSError, ValueError) as error:
            raise LaunchError(f"--metrics-address {self.address}: {error}") from None


def add_flags(parser: argparse.ArgumentParser) -> None:
    """--metrics-address and what belongs to it."""
    parser.add_argument(
        "--metrics-address",
        metavar="HOST:PORT",
        help="serves the run's metrics for Prometheus there, such as 127.0.0.1:9464 (default: nowhere)",
    )
    for name, text in (
        ("tls-certificate", "PEM file of the metrics server's certificate and chain"),
        ("tls-key", "PEM file of the certificate's key"),
        ("tokens", "file of hashed bearer tokens; a reader needs the scope read"),
    ):
        parser.add_argument(f"--metrics-{name}", type=Path, metavar="FILE", help=text)
    parser.add_argument(
        "--metrics-linger",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="a finished run stays up so much longer, for Prometheus to read what it came to (default: 0)",
    )
    parser.add_argument(
        "--metrics-insecure-network",
        action="store_true",
        help="serve metrics beyond loopback without TLS and tokens: whoever reaches the port may read them",
    )


def door_of(options: argparse.Namespace) -> MetricsDoor | None:
    """What the flags say; None without an address."""
    if options.metrics_address is None:
        return None
    given = {
        name.removeprefix(PREFIX): value for name, value in vars(options).items() if name.startswith(PREFIX)
    }
    return MetricsDoor(**given)


@dataclass(frozen=True)
class MetricsPage:
    """What /metrics shows: the process at all times, and a run while one is driven."""

    registry: CollectorRegistry
    url: str
    address: str
    linger: float = 0.0

    async def lingering(self, stopping: asyncio.Event) -> None:
        """Waits until the run's last numbers can have been read, or somebody asks it to stop."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stopping.wait(), self.linger)

    @contextmanager
    def showing(self, metrics: Collector) -> Iterator[None]:
        """Shows these too, as long as the block lasts."""
        self.registry.register(metrics)
        try:
            yield
        finally:
            self.registry.unregister(metrics)


@contextmanager
def serving(door: MetricsDoor | None) -> Iterator[MetricsPage | None]:
    """Serves GET /metrics on a thread; without a door nothing, and None."""
    if door is None:
        yield None
        return
    registry = CollectorRegistry()
    for kind in (prometheus_client.ProcessCollector, prometheus_client.PlatformCollector):
        kind(registry=registry)
    build = METRICS["trueline_build_info"].made(prometheus_client, registry)
    build.info({"version": __version__, "grpc": grpc.__version__, "python": platform.python_version()})
    server = door.opened(registry)
    server.start()
    try:
        yield MetricsPage(registry, f"{door.scheme}://{server.address}/metrics", server.address, door.linger)
    finally:
        server.shutdown()
        server.server_close()
