"""PostgreSQL in a namespace of its own, with the password that the manifests' Secret holds."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg

from benchmarks.cluster.network import NETWORK, Place
from tests.postgresql_server import binary

PORT = 5432
START_SECONDS = 60.0


@contextlib.contextmanager
def database(place: Place, directory: Path, password: Path) -> Iterator[str]:
    """A running server with the database `ledger`; its URL for this process, over a socket in a directory."""
    directory.mkdir()
    user = pwd.getpwnam("nobody")
    for path in (directory, password):
        shutil.chown(path, user.pw_uid, user.pw_gid)
    data, environment = directory / "data", {**os.environ, "LC_ALL": "C"}
    make = [str(binary("initdb")), "-D", str(data), "-U", "trueline", "-N", "-E", "UTF8"]
    make += ["--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={password}"]
    subprocess.run(make, user=user.pw_uid, group=user.pw_gid, cwd=directory, env=environment, check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    with (data / "pg_hba.conf").open("a") as rules:
        rules.write(f"host all all {NETWORK}.0/24 scram-sha-256\n")
    become = [
        "setpriv",
        "--pdeathsig",
        "KILL",
        f"--reuid={user.pw_uid}",
        f"--regid={user.pw_gid}",
        "--clear-groups",
    ]
    words = [str(binary("postgres")), "-D", str(data), "-p", str(PORT), "-k", str(directory)]
    words += ["-c", "listen_addresses=*", "-c", "fsync=off"]
    with (directory / "log").open("ab") as log:
        server = subprocess.Popen(
            place.command([*become, *words]), cwd=directory, env=environment, stdin=subprocess.DEVNULL,
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        url = f"postgresql://trueline@/postgres?host={directory}&port={PORT}"
        with connected(url, server, directory) as connection:
            connection.execute("CREATE DATABASE ledger")
        yield url.replace("/postgres?", "/ledger?")
    finally:
        os.killpg(server.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(START_SECONDS)


def connected(url: str, server: "subprocess.Popen[bytes]", directory: Path) -> psycopg.Connection:
    """A connection, once the server takes one. RuntimeError with its log where it never does."""
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            return psycopg.connect(url, connect_timeout=5, autocommit=True)
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > until:
                raise RuntimeError((directory / "log").read_text()[-2000:]) from None
            time.sleep(0.1)
