"""What the judge service is told: its constitution, and the model or endpoint that reads it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from services.judge.constitution import ConstitutionError, read_constitution
from services.model_settings import ModelSettings
from services.settings import REQUIRED, above, one_of, setting

CHAT_PATH = "/chat/completions"


def constitution_file(text: str) -> Path:
    """A parser of constitutions: the file has to be sound."""
    try:
        read_constitution(Path(text))
    except ConstitutionError as error:
        raise ValueError(str(error)) from None
    return Path(text)


def endpoint_url(text: str) -> str:
    """A parser: "http://judge:8000/v1" is "http://judge:8000/v1/chat/completions". A key in it is refused."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"must be an http or https URL such as http://judge:8000/v1, not {text!r}")
    if parts.username or parts.password or parts.query:
        # Not quoted: what stands there may be a secret.
        raise ValueError("must hold neither user, password nor query; a key comes from --api-key-file")
    url = text.rstrip("/")
    return url if url.endswith(CHAT_PATH) else url + CHAT_PATH


def proxy_url(text: str) -> str:
    """A parser of proxies. Not quoted in its fault: it may hold a password."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an http or https URL such as http://proxy:3128")
    return text


def key_file(text: str) -> Path:
    """A parser of files that hold a key."""
    _checked_key(_read(Path(text)), f"the file {text!r}")
    return Path(text)


def key_variable(text: str) -> str:
    """A parser of environment variables that hold a key."""
    _checked_key(os.environ.get(text, ""), f"the environment variable {text!r}")
    return text


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot be read ({type(error).__name__})") from None


def _checked_key(key: str, where: str) -> None:
    """A header has no room for blanks and line ends. The key itself is never told."""
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError(f"{where} holds no key: one line of printable ASCII without blanks is needed")


@dataclass(frozen=True, kw_only=True)
class JudgeSettings(ModelSettings):
    """Judges responses by a constitution, with a local model (--model, --follow) or an endpoint."""

    constitution: Path = setting(REQUIRED, "The constitution, a YAML file.", parse=constitution_file)
    endpoint: str = setting(
        "", "An OpenAI-compatible endpoint, such as http://judge:8000/v1.", parse=endpoint_url
    )
    endpoint_model: str = setting("", "What the endpoint calls the model that judges.")
    api_key_file: Path | None = setting(None, "File that holds the endpoint's key.", parse=key_file)
    api_key_env: str = setting("", "Environment variable that holds the endpoint's key.", parse=key_variable)
    endpoint_proxy: str = setting(
        "", "HTTP proxy to the endpoint; proxies of the environment are not used.", parse=proxy_url
    )
    logprobs: str = setting(
        "auto",
        "auto: from log-probs where the endpoint gives them, else from the text; require: abstain where it "
        "does not; off: never ask for them.",
        parse=one_of("auto", "require", "off"),
    )
    top_logprobs: int = setting(20, "Alternatives per token to ask of the endpoint.", parse=above(1))
    token_limit_field: str = setting(
        "max_tokens",
        "What the endpoint calls the limit on new tokens.",
        parse=one_of("max_tokens", "max_completion_tokens"),
    )
    requests_at_once: int = setting(8, "Requests under way at the endpoint at most.", parse=above(0))
    requests_per_minute: float = setting(
        0.0, "Requests a minute that begin at the endpoint; without it as many as fit.", parse=above(0, float)
    )
    attempts: int = setting(5, "Times that one question is asked at most.", parse=above(0))
    attempt_seconds: float = setting(60.0, "Seconds that one request may take.", parse=above(0, float))
    question_seconds: float = setting(
        180.0, "Seconds from a question's first attempt to its last, pauses included.", parse=above(0, float)
    )
    longest_pause: float = setting(
        30.0, "Seconds between two attempts at most; a Retry-After is kept to.", parse=above(0, float)
    )
    batch_rows: int = setting(
        16,
        "Rows of one forward pass of a local model; with 1 no verdict depends on its neighbours by a bit.",
        parse=above(0),
    )
    batch_tokens: int = setting(
        16384, "Tokens of one forward pass at most, padding included.", parse=above(0)
    )
    max_items: int = setting(1024, "Items that one call may hold.", parse=above(0))

    def faults(self) -> list[str]:
        """Two judges at once, or half an endpoint."""
        found = super().faults()
        local = [flag for flag, given in (("--model", self.model), ("--follow", self.follow)) if given]
        if self.endpoint and local:
            found.append(f"{', '.join(local)}, --endpoint: give a local model or an endpoint")
        if bool(self.endpoint) != bool(self.endpoint_model):
            found.append("--endpoint, --endpoint-model: give both")
        if self.api_key_file and self.api_key_env:
            found.append("--api-key-file, --api-key-env: give one of the two")
        return found

    def api_key(self) -> str:
        """The endpoint's key; "" for none. Read here and kept out of every record of the settings."""
        if self.api_key_file:
            return _read(self.api_key_file)
        return os.environ.get(self.api_key_env, "") if self.api_key_env else ""
