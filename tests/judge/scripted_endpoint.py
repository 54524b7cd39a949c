"""An OpenAI-compatible endpoint on loopback whose answers follow a script: real HTTP, no model."""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What the endpoint sends; `silence` never sends anything until the endpoint closes."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    silence: bool = False


Script = Callable[[str, int], Reply]


class Endpoint:
    """A running endpoint: its URL, and what it was asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.paths: list[str] = []
        self.closing = threading.Event()
        self.lock = threading.Lock()


@contextmanager
def endpoint(script: Script) -> Iterator[Endpoint]:
    """Serves script(what the judge is told, how many requests came before) until the block ends."""
    served = Endpoint("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with served.lock:
                before = len(served.bodies)
                served.bodies.append(body)
                served.keys.append(self.headers.get("authorization"))
                served.paths.append(self.path)
            reply = script(body["messages"][-1]["content"], before)
            if reply.silence:
                served.closing.wait(60)
                self.close_connection = True
                return
            content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in {**reply.headers, "content-length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    served.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        served.closing.set()
        server.shutdown()
        server.server_close()


def says(
    text: Any,
    *places: Mapping[str, float],
    usage: Any = "counted",
    finish_reason: str = "stop",
) -> Reply:
    """A chat completion with this text; each of `places` is a token's alternatives, likeliest first."""
    content = [
        {
            "token": next(iter(place)),
            "logprob": next(iter(place.values())),
            "top_logprobs": [{"token": token, "logprob": logprob} for token, logprob in place.items()],
        }
        for place in places
    ]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": finish_reason,
        "logprobs": {"content": content} if content else None,
    }
    body = {
        "object": "chat.completion",
        "model": "oracle-2",
        "system_fingerprint": "fp7",
        "choices": [choice],
    }
    if usage == "counted":
        usage = {"prompt_tokens": 100, "completion_tokens": 2, "total_tokens": 102}
    return Reply({**body, "usage": usage} if usage else body)


def logs(**probabilities: float) -> dict[str, float]:
    """Log-probs of probabilities, likeliest first: logs(A=0.7, B=0.2)."""
    ranked = sorted(probabilities.items(), key=lambda pair: -pair[1])
    return {token: math.log(probability) for token, probability in ranked}


def slots(told: str) -> tuple[str, str]:
    """The responses that stand as (A) and (B) in what the judge is told."""
    found = re.search(r"\(A\) (.*?)\n\n\(B\) (.*?)\n\n", told, re.DOTALL)
    assert found, told
    return found[1], found[2]
