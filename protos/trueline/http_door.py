"""The door of an HTTP server of ours (metrics, the orchestrator's page): TLS and a token's scope.

    server = HttpServer("0.0.0.0:9464", wsgi_application, tls=TlsFiles(...), tokens=TokenFile(...))
    server.start()                        on a thread
    server.address                        "0.0.0.0:9464"

Every path and every method needs the scope `read`, unless the table says another: 401 without a good token,
403 where it does not reach. Without `tokens`, which only a server on loopback may do without, all may pass.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from trueline.tls_files import TlsFiles
from trueline.tokens import Refused, TokenFile

READ_SECONDS = 30.0  # a caller that is silent for so long, in its handshake too, is left

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]
Scopes = Mapping[str, str]


def guarded(application: Application, tokens: TokenFile | None, scopes: Scopes | None = None) -> Application:
    """The WSGI application behind the door. `scopes`: path to scope, where a path needs another than read."""
    if tokens is None:
        return application
    held = tokens

    def door(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        try:
            scope = (scopes or {}).get(environ.get("PATH_INFO", ""), "read")
            held.check(environ.get("HTTP_AUTHORIZATION", ""), scope)
        except Refused as refused:
            status = "403 Forbidden" if refused.known else "401 Unauthorized"
            headers = [("Content-Type", "text/plain; charset=utf-8"), ("WWW-Authenticate", "Bearer")]
            start_response(status, headers)
            return [f"{refused.reason}: {refused}\n".encode()]
        return application(environ, start_response)

    return door


class _Handler(WSGIRequestHandler):
    timeout = READ_SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: scrapes every few seconds would drown the log."""


class HttpServer(ThreadingMixIn, WSGIServer):
    """A threaded WSGI server on one address, with or without TLS."""

    daemon_threads = True

    def __init__(
        self,
        address: str,
        application: Application,
        *,
        tls: TlsFiles | None = None,
        tokens: TokenFile | None = None,
        scopes: Scopes | None = None,
    ) -> None:
        host, _, port = address.rpartition(":")
        bare = host.removeprefix("[").removesuffix("]")
        self.address_family = socket.AF_INET6 if ":" in bare else socket.AF_INET
        self._tls = tls
        super().__init__((bare, int(port)), _Handler)
        self.set_app(guarded(application, tokens, scopes))
        self.address = f"{host}:{self.server_port}"

    def server_bind(self) -> None:
        """Binds without looking up the host's full name, which may take seconds and which nobody needs."""
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def start(self) -> None:
        """Serves on a thread of its own."""
        threading.Thread(target=self.serve_forever, name="http", daemon=True).start()

    def get_request(self) -> tuple[Any, Any]:
        """The next connection. Its handshake is left to its own thread: a slow caller must not stop all."""
        connection, address = super().get_request()
        if self._tls is None:
            return connection, address
        self._tls.refresh()
        connection.settimeout(READ_SECONDS)
        context = self._tls.context
        return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that breaks off, or fails its handshake, is no news."""
