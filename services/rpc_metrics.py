"""RPC metrics, and the registry that holds them.

A process has one registry; services register their own metrics in it too (host.registry).
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

import grpc
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    make_wsgi_app,
)

from services.exported import exported
from trueline.http_door import HttpServer
from trueline.version import __version__


@dataclass(frozen=True)
class Method:
    """One rpc: Method("unary", "trueline.v1.RewardService", "Score")."""

    type: str
    service: str
    name: str

    @property
    def labels(self) -> tuple[str, str, str]:
        """Values of the labels grpc_type, grpc_service and grpc_method."""
        return (self.type, self.service, self.name)


class RpcMetrics:
    """Counts and times calls and messages by method and code."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.started = exported("grpc_server_started_total", registry)
        self.handled = exported("grpc_server_handled_total", registry)
        self.received = exported("grpc_server_msg_received_total", registry)
        self.sent = exported("grpc_server_msg_sent_total", registry)
        self.seconds = exported("grpc_server_handling_seconds", registry)


def new_registry() -> CollectorRegistry:
    """A registry with the process, Python and build metrics that every service shows."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    exported("trueline_build_info", registry).info(
        {"version": __version__, "grpc": grpc.__version__, "python": platform.python_version()}
    )
    return registry


def serve_metrics(registry: CollectorRegistry, address: str, **door: Any) -> HttpServer:
    """Serves GET /metrics on a thread, behind the `door` (tls, tokens) that an HttpServer takes."""
    server = HttpServer(address, make_wsgi_app(registry), **door)
    server.start()
    return server
