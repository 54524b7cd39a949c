"""How an orchestrator stands, and two HTTP paths that say so to Kubernetes.

    GET /healthz    200 while the process works: its thread looks at the Lease, its event loop turns
    GET /readyz     200 while it leads, and while it could take over: 503 where no API server answers it

Both answer with one line, such as "standby: orchestrator-7d9f-x2x_1f3a leads".
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from orchestrator.cluster.election import Election

LOOP_SECONDS = 300.0  # a ledger whose database is away may hold the event loop for minutes
TICK_SECONDS = 1.0


class Standing:
    """What this orchestrator is just now: "starting", "standby", "leading", "finished" or "failed"."""

    def __init__(self, election: Election) -> None:
        self.election, self.what = election, "starting"
        self.turned = time.monotonic()

    def healthy(self) -> tuple[bool, str]:
        """Whether the process works at all, and the line that says so."""
        if not self.election.alive:
            return False, "nobody looks at the Lease any more"
        silent = time.monotonic() - self.turned
        return silent < LOOP_SECONDS, f"the event loop turned {silent:.0f} s ago"

    def ready(self) -> tuple[bool, str]:
        """Whether it does its part: it leads, has led to the end, or could take over."""
        if self.what in ("leading", "finished"):
            return True, self.what
        if not self.election.fresh:
            return False, f"{self.what}: the API server does not answer"
        return self.what == "standby", f"{self.what}: {self.election.holder or 'nobody'} leads"

    async def tick(self) -> None:
        """Notes that the event loop turns, until it is cancelled."""
        while True:
            self.turned = time.monotonic()
            await asyncio.sleep(TICK_SECONDS)


@contextlib.asynccontextmanager
async def probed(standing: Standing, address: str | None) -> AsyncIterator[int]:
    """Answers probes at host:port, in a thread of their own; gives the port (0 where there is no address)."""
    ticking = asyncio.ensure_future(standing.tick())
    server = None
    if address is not None:
        host, _, port = address.rpartition(":")
        server = ThreadingHTTPServer((host.strip("[]"), int(port)), handler(standing))
        threading.Thread(target=server.serve_forever, name="probes", daemon=True).start()
    try:
        yield server.server_port if server else 0
    finally:
        ticking.cancel()
        if server:
            server.shutdown()
            server.server_close()


def handler(standing: Standing) -> type[BaseHTTPRequestHandler]:
    """The two paths as http.server wants them."""

    class Probes(BaseHTTPRequestHandler):
        timeout = 10  # seconds that a caller may take to say what it wants

        def do_GET(self) -> None:
            asked = {"/healthz": standing.healthy, "/readyz": standing.ready}.get(self.path)
            well, line = asked() if asked else (False, "there are /healthz and /readyz")
            body = (line + "\n").encode()
            self.send_response((200 if well else 503) if asked else 404)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Probes come every few seconds: nothing to keep."""

    return Probes
