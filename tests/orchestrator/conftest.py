"""A PostgreSQL server for the whole session, started by the first test that wants it."""

from collections.abc import Iterator

import pytest

from tests.postgresql_server import Server, postgresql_server


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    with postgresql_server() as server:
        yield server
