"""One root, one server certificate, and a file of tokens, of which the tests know the secrets."""

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from tests.edge.certificates import Pair, authority, issue
from trueline.tokens import SCOPES, new_token


class TokensOnDisk:
    """A file of tokens; `secrets` by name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.secrets: dict[str, str] = {}
        self._lines: list[str] = ["# tokens"]

    def add(self, name: str, *scopes: str, days: float = 1.0) -> str:
        ends = datetime.now(timezone.utc) + timedelta(days=days)
        self.secrets[name], token = new_token(name, scopes, ends)
        self._lines.append(token.line)
        self.path.write_text("\n".join(self._lines) + "\n")
        return self.secrets[name]

    def remove(self, name: str) -> None:
        self._lines = [line for line in self._lines if line.split()[0] != name]
        self.path.write_text("\n".join(self._lines) + "\n")


@pytest.fixture
def tokens(tmp_path: Path) -> TokensOnDisk:
    """One token per scope, named after it; `all` has every scope, `ended` too but is over."""
    held = TokensOnDisk(tmp_path / "tokens")
    for scope in SCOPES:
        held.add(scope, scope)
    held.add("all", *SCOPES)
    held.add("ended", *SCOPES, days=-1)
    return held


@pytest.fixture(scope="session")
def root(tmp_path_factory: Any) -> Pair:
    return authority(tmp_path_factory.mktemp("root"))


@pytest.fixture(scope="session")
def certificate(root: Pair) -> Pair:
    return issue(root, "server")
