"""Settings of the policy service: which engine, and where it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from services.model_settings import ModelSettings
from services.settings import above, one_of, setting

ENGINES = ("transformers", "vllm", "tgi")


def http_url(text: str) -> str:
    """A parser of http(s)://host[:port]; a path, a query or a password has no business there."""
    parts = urlsplit(text)
    bare = parts.path in ("", "/") and not (parts.query or parts.username)
    if parts.scheme not in ("http", "https") or not parts.hostname or not bare:
        raise ValueError(f"must be like http://127.0.0.1:8000, not {text!r}")
    return text.rstrip("/")


@dataclass(frozen=True, kw_only=True)
class PolicySettings(ModelSettings):
    """Samples completions; with neither --model nor --follow it waits, NOT_SERVING, for LoadWeights."""

    engine: str = setting(
        "transformers",
        "What computes: transformers (in this process), vllm or tgi (at --endpoint).",
        parse=one_of(*ENGINES),
    )
    endpoint: str = setting("", "Where vLLM's or TGI's HTTP API is: http://127.0.0.1:8000.", parse=http_url)
    endpoint_key_file: Path | None = setting(
        None, "File with the key that the endpoint asks for (vllm serve --api-key).", parse=Path
    )
    endpoint_seconds: float = setting(
        300.0,
        "Seconds that one request to the endpoint may take, or be refused by a busy one.",
        parse=above(0, float),
    )
    endpoint_attempts: int = setting(
        4, "Times that a request is sent at most, where the endpoint fails.", parse=above(0)
    )
    endpoint_requests: int = setting(
        256, "Requests to the endpoint at once, those of all chunks together.", parse=above(0)
    )
    chunks_at_once: int = setting(
        1, "Chunks that run side by side; above 1 for engines that batch continuously.", parse=above(0)
    )
    load_seconds: float = setting(
        900.0,
        "Seconds that the endpoint may take to load a version, or to come back with it.",
        parse=above(0, float),
    )
    restart_file: Path | None = setting(
        None,
        "File that gets the directory to serve, for whatever starts TGI again with that --model-id.",
        parse=Path,
    )

    @property
    def work_threads(self) -> int:
        """Chunks at once."""
        return self.chunks_at_once

    def faults(self) -> list[str]:
        """An engine without its endpoint, or an endpoint without its engine."""
        found, remote = super().faults(), self.engine != "transformers"
        if remote != bool(self.endpoint):
            found.append("--endpoint: belongs to --engine vllm and tgi, and these need it")
        if not remote and self.chunks_at_once != 1:
            found.append("--chunks-at-once: the transformers engine runs one, so that its bits repeat")
        if self.restart_file is not None and self.engine != "tgi":
            found.append("--restart-file: belongs to --engine tgi")
        if self.endpoint_key_file is not None and not self.endpoint_key_file.is_file():
            found.append(f"--endpoint-key-file: there is no file at {self.endpoint_key_file}")
        return found
