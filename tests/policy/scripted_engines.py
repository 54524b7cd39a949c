"""vLLM's and TGI's HTTP APIs on loopback, spoken by a tiny real model: real HTTP, real ids, real log-probs.

with vllm_server(path) as server:          what `vllm serve PATH` offers of what Trueline calls
    server.faults.append(Reply(429))       what the next completion gets instead
    server.calls                           ["/pause?mode=wait", "/collective_rpc", ...]
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from services.policy.engine import FinishReason, Row, Sampling
from services.policy.transformers_engine import TransformersEngine
from services.policy.transformers_loading import TransformersLoader
from services.weights import identify


@dataclass
class Reply:
    """An HTTP answer; `body` bytes go out as they are, None is silence until the server closes."""

    status: int = 200
    body: Any = b""
    headers: Mapping[str, str] = field(default_factory=dict)


SILENCE = Reply(body=None)
Change = Callable[[dict[str, Any]], Any]


class ScriptedEngine:
    """A process of its own in all but name: a model, and what is done to its next answers."""

    def __init__(self, path: Path) -> None:
        self.url = ""
        self.faults: list[Reply] = []
        self.change: Change | None = None  # of a completion before it is sent
        self.calls: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.closing = threading.Event()
        self.lock = threading.RLock()
        self.start(path)

    def start(self, path: Path) -> None:
        """What a new process does."""
        self.path = path
        self.model: TransformersEngine = TransformersLoader()(path, identify(path, None))

    def draw(self, prompt: list[int], sampling: Sampling) -> Any:
        """One completion of the model."""
        with self.lock:
            return self.model.generate([Row(prompt, 0)], sampling)[0]

    def route(self, method: str, path: str, query: str, body: Any) -> Reply:
        """Answers one request."""
        raise NotImplementedError

    def completion(self, answer: Callable[[], dict[str, Any]]) -> Reply:
        """A completion, or what the script has in its place."""
        with self.lock:
            fault = self.faults.pop(0) if self.faults else None
        if fault is not None:
            return fault
        told = answer()
        return Reply(body=told if self.change is None else self.change(told))


class VllmServer(ScriptedEngine):
    """vLLM with VLLM_SERVER_DEV_MODE=1 and --logprobs-mode processed_logprobs, unless `raw`."""

    raw = False
    wrong_label = False  # says another version than it was told
    broken_reload = False
    reload_seconds = 0.0
    flush_refused = 0
    pause_lost = False  # it pauses, and its answer says that it did not

    def start(self, path: Path) -> None:
        super().start(path)
        self.label, self.running = "default", threading.Event()
        self.running.set()
        self.flushed = True

    def route(self, method: str, path: str, query: str, body: Any) -> Reply:
        if path == "/v1/completions":
            self.running.wait(20)
            return self.completion(lambda: self._complete(body))
        if path == "/v1/models":
            return Reply(body={"object": "list", "data": [{"id": "served", "max_model_len": 48}]})
        if path == "/weight_info":
            return Reply(body={"weight_version": "other" if self.wrong_label else self.label})
        if path == "/pause" and query == "mode=wait":
            self.running.clear()
            if self.pause_lost:
                return Reply(500, {"error": "Failed to pause generation: the answer is lost"})
            return Reply(body={"status": "paused"})
        if path == "/is_paused":
            return Reply(body={"is_paused": not self.running.is_set()})
        if path == "/resume":
            self.running.set()
            return Reply(body={"status": "resumed"})
        if path == "/update_weight_version":
            self.label = body["new_version"]
            return Reply(body={"success": True, "new_version": self.label})
        if path == "/reset_prefix_cache":
            self.flush_refused -= 1
            self.flushed = self.flush_refused < 0
            return Reply(body={"success": self.flushed})
        if path == "/collective_rpc" and body["method"] == "reload_weights":
            return self._reload(Path(body["kwargs"]["weights_path"]))
        return Reply(404, {"detail": "Not Found"})

    def _reload(self, path: Path) -> Reply:
        if self.running.is_set() or self.broken_reload:
            return Reply(500, {"error": {"message": "EngineCore encountered an issue"}})
        time.sleep(self.reload_seconds)
        self.path, self.flushed = path, False
        self.model = TransformersLoader()(path, identify(path, None))
        return Reply(body={"results": [None]})

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt = list(body["prompt"])
        choice: dict[str, Any] = {"index": 0, "text": "", "finish_reason": "length", "stop_reason": None}
        if body.get("prompt_logprobs") is not None:
            choice["prompt_logprobs"] = self._given(prompt)
            return {"object": "text_completion", "model": "served", "choices": [choice]}
        top_k, blind = max(body["top_k"], 0), body.get("skip_special_tokens", True)
        stop = tuple(each for each in body["stop"] if not (blind and "<" in each))
        sampling = Sampling(body["temperature"], body["top_p"], top_k, body["max_tokens"], stop, body["seed"])
        drawn = self.draw(prompt, sampling)
        logprobs = drawn.logprobs
        if self.raw:
            with self.lock:
                logprobs = self.model.compute_logprobs([prompt], [drawn.response_ids], 1.0)[0]
        if drawn.finish_reason is not FinishReason.LENGTH:
            choice["finish_reason"] = "stop"
        if drawn.finish_reason is FinishReason.STOP_TEXT:
            text = self.model.tokenizer.decode(drawn.response_ids, skip_special_tokens=blind)
            choice["stop_reason"] = next(each for each in body["stop"] if each in text)
        if body.get("return_token_ids"):
            choice |= {"token_ids": drawn.response_ids, "prompt_token_ids": prompt}
        if body.get("logprobs") is not None:
            tokens = self.model.tokenizer.convert_ids_to_tokens(drawn.response_ids)
            choice["logprobs"] = {"tokens": tokens, "token_logprobs": logprobs, "text_offset": []}
        return {"object": "text_completion", "model": "served", "choices": [choice]}

    def _given(self, ids: list[int]) -> list[dict[str, Any] | None]:
        with self.lock:
            (logprobs,) = self.model.compute_logprobs([ids[:1]], [ids[1:]], 1.0)
        told = zip(ids[1:], logprobs, strict=True)
        return [None, *({str(token): {"logprob": each, "rank": 1}} for token, each in told)]


class TgiServer(ScriptedEngine):
    """TGI 3; started again on what `restart_file` names, as a supervisor would."""

    def __init__(self, path: Path, restart_file: Path | None = None) -> None:
        super().__init__(path)
        self.restarts = 0
        if restart_file is not None:
            threading.Thread(target=self._supervise, args=(restart_file,), daemon=True).start()

    def _supervise(self, file: Path) -> None:
        while not self.closing.wait(0.05):
            if file.exists() and (wanted := Path(file.read_text().strip())) != self.path:
                self.down = True
                time.sleep(0.3)
                with self.lock:
                    self.start(wanted)
                    self.restarts += 1
                self.down = False

    down = False

    def route(self, method: str, path: str, query: str, body: Any) -> Reply:
        if self.down:
            return Reply(503, {"error": "unhealthy", "error_type": "healthcheck"})
        if path == "/info":
            return Reply(body={"model_id": str(self.path), "max_total_tokens": 48, "version": "3.3.7"})
        if path == "/tokenize":
            ids = self.model.tokenizer(body["inputs"])["input_ids"]
            return Reply(body=[{"id": each, "text": "", "start": 0, "stop": 0} for each in ids])
        if path == "/generate":
            return self.completion(lambda: self._generate(body["inputs"], body["parameters"]))
        return Reply(404, {"error": "not found"})

    def _generate(self, text: str, given: dict[str, Any]) -> dict[str, Any]:
        assert len(given["stop"]) <= 4 and given["do_sample"] and given["details"]
        assert given["top_p"] is None or 0 < given["top_p"] < 1
        prompt = self.model.tokenizer(text)["input_ids"]
        limits = (given["top_p"] or 1.0, given["top_k"] or 0, given["max_new_tokens"])
        sampling = Sampling(given["temperature"], *limits, tuple(given["stop"]), given["seed"])
        drawn = self.draw(prompt, sampling)
        reasons = {
            FinishReason.LENGTH: "length",
            FinishReason.END_OF_TEXT: "eos_token",
            FinishReason.STOP_TEXT: "stop_sequence",
        }
        tokens = [
            {"id": token, "text": "", "logprob": logprob, "special": token < 5}
            for token, logprob in zip(drawn.response_ids, drawn.logprobs, strict=True)
        ]
        details = {
            "finish_reason": reasons[drawn.finish_reason],
            "generated_tokens": len(tokens),
            "seed": given["seed"],
            "prefill": [],
            "tokens": tokens,
        }
        return {"generated_text": drawn.text, "details": details}


@contextmanager
def served(engine: ScriptedEngine) -> Iterator[ScriptedEngine]:
    """Serves it on a port of loopback until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self._answer("POST")

        def do_GET(self) -> None:
            self._answer("GET")

        def _answer(self, method: str) -> None:
            parts = urlsplit(self.path)
            sent = self.rfile.read(int(self.headers.get("content-length") or 0))
            body = json.loads(sent) if sent else None
            engine.calls.append(self.path)
            engine.keys.add(self.headers.get("authorization"))
            if parts.path in ("/v1/completions", "/generate"):
                engine.bodies.append(body)
            reply = engine.route(method, parts.path, parts.query, body)
            if reply.body is None:
                engine.closing.wait(30)
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
    engine.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield engine
    finally:
        engine.closing.set()
        server.shutdown()
        server.server_close()
