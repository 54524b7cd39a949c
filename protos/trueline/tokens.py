"""Bearer tokens: how they are made, kept as hashes in a file, and checked. Standard library only.

A file has a line per token; lines may come and go while servers run, which read it again by themselves:

    # name        scopes        ends                    hash
    trainer-x     score,read    2026-02-23T00:00:00Z    sha256:9f86d081884c7d659a2feaa0c55ad015...

A token is 256 random bits, so that a plain SHA-256 cannot be undone by guessing.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

log = logging.getLogger(__name__)

SCOPES = {
    "read": "ask what is served and how it is: versions, scorers, state, metrics, reflection",
    "score": "have responses scored, compared, critiqued and revised",
    "generate": "sample completions; log-probs of given tokens",
    "train": "stages, steps, checkpoints and publishing of the trainer",
    "admin": "change what a service serves: its weights, its constitution",
}
PREFIX = "tl_"
FOREVER = "never"
TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,62}")
_HASH = re.compile(r"sha256:[0-9a-f]{64}")


class Refused(Exception):
    """A caller that may not. `reason`: token_missing, _malformed, _unknown, _expired or _scope."""

    def __init__(self, reason: str, message: str, *, name: str = "", scope: str = "") -> None:
        self.reason, self.name, self.scope = f"token_{reason}", name, scope
        super().__init__(message)

    @property
    def known(self) -> bool:
        """Whether the token is good and only its scopes do not reach."""
        return self.reason == "token_scope"


@dataclass(frozen=True)
class Token:
    """What a file says of one token; the token itself is known to its bearer alone."""

    name: str
    scopes: frozenset[str]
    ends: datetime | None
    digest: str

    @property
    def line(self) -> str:
        """The token's line in a file."""
        ends = FOREVER if self.ends is None else self.ends.strftime(TIME_FORMAT)
        return f"{self.name}  {','.join(sorted(self.scopes))}  {ends}  {self.digest}"


def digest_of(secret: str) -> str:
    """What a file keeps of a token: digest_of("tl_...") is "sha256:...", 71 characters."""
    return "sha256:" + hashlib.sha256(secret.encode("utf-8", errors="surrogateescape")).hexdigest()


def new_token(name: str, scopes: Collection[str], ends: datetime | None) -> tuple[str, Token]:
    """A fresh secret and its record. ValueError for a bad name, no scope or an unknown one."""
    secret = PREFIX + secrets.token_urlsafe(32)
    token = Token(name, frozenset(scopes), ends, digest_of(secret))
    return secret, read_line(token.line)


def read_line(line: str) -> Token:
    """A record from its line; ValueError that says what is wrong, and never quotes the hash."""
    parts = line.split()
    if len(parts) != 4:
        raise ValueError(f"must hold name, scopes, end and hash, holds {len(parts)} words")
    name, scopes, ends, digest = parts
    if not _NAME.fullmatch(name):
        raise ValueError(f"name must be letters, digits, '.', '_' and '-', is {name!r}")
    given = frozenset(scopes.split(","))
    if not given <= SCOPES.keys():
        unknown = ", ".join(sorted(given - SCOPES.keys()))
        raise ValueError(f"{name}: scopes are {', '.join(SCOPES)}; got {unknown!r}")
    if not _HASH.fullmatch(digest):
        raise ValueError(f"{name}: hash must be sha256: and 64 hexadecimal digits")
    return Token(name, given, _moment(name, ends), digest)


def _moment(name: str, text: str) -> datetime | None:
    if text == FOREVER:
        return None
    try:
        return datetime.strptime(text, TIME_FORMAT).replace(tzinfo=timezone.utc)
    except ValueError:
        raise ValueError(f"{name}: end must be like 2026-02-23T00:00:00Z, or never; is {text!r}") from None


def read_tokens(path: Path) -> list[Token]:
    """All records of a file; ValueError with every faulty line, OSError where it cannot be read."""
    tokens, faults = [], []
    for number, line in _lines(path.read_text(encoding="utf-8")):
        try:
            tokens.append(read_line(line))
        except ValueError as error:
            faults.append(f"line {number}: {error}")
    names = [token.name for token in tokens]
    faults += [f"{name} is there twice" for name in sorted({each for each in names if names.count(each) > 1})]
    if faults:
        raise ValueError(f"{path}: {'; '.join(faults)}")
    return tokens


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.partition("#")[0].strip():
            yield number, line.partition("#")[0]


class TokenFile:
    """The tokens of a file, read again as soon as it changes.

    A change that cannot be read is logged as an error and the tokens before it stay; they end when they end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen = file_state(path)
        self._tokens = read_tokens(path)
        self._lock = threading.Lock()

    def check(self, authorization: str, scope: str) -> Token:
        """The token in an Authorization value ("Bearer tl_..."), if it reaches `scope`. Raises Refused."""
        if not authorization:
            raise Refused("missing", "a token is needed: authorization: Bearer TOKEN")
        kind, _, secret = authorization.partition(" ")
        if kind.lower() != "bearer" or not secret.strip():
            raise Refused("malformed", "the authorization must be 'Bearer TOKEN'")
        token = self._find(digest_of(secret.strip()))
        if token is None:
            raise Refused("unknown", "the token is not known here")
        if token.ends is not None and datetime.now(timezone.utc) >= token.ends:
            ended = token.ends.strftime(TIME_FORMAT)
            raise Refused("expired", f"token {token.name!r} ended {ended}", name=token.name)
        if scope not in token.scopes:
            has = ", ".join(sorted(token.scopes))
            message = f"this needs scope {scope!r}; token {token.name!r} has {has}"
            raise Refused("scope", message, name=token.name, scope=scope)
        return token

    def _find(self, digest: str) -> Token | None:
        """Compares with every record, each in constant time: how long it takes says nothing."""
        found = None
        for token in self._current():
            if hmac.compare_digest(token.digest, digest):
                found = token
        return found

    def _current(self) -> list[Token]:
        with self._lock:
            state = file_state(self.path)
            if state != self._seen:
                self._seen = state
                try:
                    self._tokens = read_tokens(self.path)
                    log.info("tokens read again", extra={"file": str(self.path), "tokens": len(self._tokens)})
                except (OSError, ValueError) as error:
                    log.error("tokens not read again, those before stay", extra={"fault": str(error)})
            return self._tokens


def file_state(path: Path) -> tuple[int, ...]:
    """What changes when a file does, through links too (mounted secrets); () without one."""
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return (status.st_ino, status.st_mtime_ns, status.st_size)
