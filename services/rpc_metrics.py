"""RPC metrics under the names that go-grpc-prometheus gave them, so that known dashboards and alerts fit.

A process has one registry; services register their own metrics in it too (host.registry).
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

import grpc
from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    make_wsgi_app,
)

from trueline.http_door import HttpServer
from trueline.version import __version__

METHOD_LABELS = ("grpc_type", "grpc_service", "grpc_method")
HANDLING_BUCKETS = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 300.0, 1800.0)


@dataclass(frozen=True)
class Method:
    """One rpc: Method("unary", "trueline.v1.RewardService", "Score")."""

    type: str
    service: str
    name: str

    @property
    def labels(self) -> tuple[str, str, str]:
        """Values of METHOD_LABELS."""
        return (self.type, self.service, self.name)


class RpcMetrics:
    """Counts and times calls and messages by method and code."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *more: str) -> Counter:
            return Counter(name, text, (*METHOD_LABELS, *more), registry=registry)

        self.started = counter("grpc_server_started_total", "Calls that began.")
        self.handled = counter("grpc_server_handled_total", "Calls that ended, by code.", "grpc_code")
        self.received = counter("grpc_server_msg_received_total", "Messages that came in.")
        self.sent = counter("grpc_server_msg_sent_total", "Messages that went out.")
        self.seconds = Histogram(
            "grpc_server_handling_seconds",
            "Seconds from the start of a call to its end.",
            METHOD_LABELS,
            buckets=HANDLING_BUCKETS,
            registry=registry,
        )


def new_registry() -> CollectorRegistry:
    """A registry with the process, Python and build metrics that every service shows."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    build = Info("trueline_build", "What runs.", registry=registry)
    build.info({"version": __version__, "grpc": grpc.__version__, "python": platform.python_version()})
    return registry


def serve_metrics(registry: CollectorRegistry, address: str, **door: Any) -> HttpServer:
    """Serves GET /metrics on a thread, behind the `door` (tls, tokens) that an HttpServer takes."""
    server = HttpServer(address, make_wsgi_app(registry), **door)
    server.start()
    return server
