"""A PostgreSQL server of the tests' own: a temporary directory, a free port, the binaries of this machine."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

ELSEWHERE = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)  # where Debian keeps them
START_SECONDS = 60.0


def binary(name: str) -> str | None:
    """The path of one of PostgreSQL's programs; /usr/bin may hold wrappers that want a service."""
    return shutil.which(name, path=os.pathsep.join([*map(str, ELSEWHERE), os.environ.get("PATH", "")]))


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Server:
    """One server. It refuses to run as root, so root hands it to another user of the machine."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.data, self.port = directory, directory / "data", free_port()
        self.user = None if os.geteuid() else pwd.getpwnam("nobody").pw_name
        self.process: subprocess.Popen[bytes] | None = None
        if self.user:
            shutil.chown(directory, self.user)
        initdb = [str(binary("initdb")), "-D", str(self.data), "-U", "trueline", "-A", "trust", "-N"]
        environment = {**os.environ, "LC_ALL": "C"}
        made = subprocess.run(
            [*initdb, "-E", "UTF8"],
            user=self.user,
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert made.returncode == 0, made.stderr

    def url(self, database: str = "postgres") -> str:
        """How a ledger finds it."""
        return f"postgresql://trueline@127.0.0.1:{self.port}/{database}"

    def new_database(self, name: str) -> str:
        """Makes an empty database; returns its URL."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        words = [str(binary("postgres")), "-D", str(self.data), "-p", str(self.port)]
        words += ["-k", str(self.directory), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                words, user=self.user, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                said = (self.directory / "log").read_text()[-2000:]
                assert self.process.poll() is None and time.monotonic() < deadline, said
                time.sleep(0.05)

    def stop(self) -> None:
        """Stops as in a crash: no connection is told, nothing is written back first."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(START_SECONDS)
            self.process = None


@contextlib.contextmanager
def postgresql_server() -> Iterator[Server]:
    """A running server, gone with its files afterwards. Skips the test where there is no PostgreSQL."""
    missing = [name for name in ("initdb", "postgres") if binary(name) is None]
    if missing:
        pytest.skip(f"PostgreSQL's {' and '.join(missing)} not found: install its server to test with it")
    with tempfile.TemporaryDirectory(prefix="trueline-pg-", ignore_cleanup_errors=True) as directory:
        server = Server(Path(directory))
        server.start()
        try:
            yield server
        finally:
            server.stop()
