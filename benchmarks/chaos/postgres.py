"""The ledger in a PostgreSQL of its own, which crashes and comes back in the middle of the run."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.faults.plan import FaultPlan
from tests.postgresql_server import Server, binary, postgresql_server

POLL_SECONDS = 0.05
AWAY_SECONDS = 1.0


@dataclass
class Crashes:
    """Takes the server away for a second when the run reaches each of these rounds."""

    server: Server
    plan: FaultPlan
    rounds: list[int]
    done: list[int] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Until all are done, or the run has ended."""
        while len(self.done) < len(self.rounds) and not self.ended.wait(POLL_SECONDS):
            if self.plan.round >= self.rounds[len(self.done)]:
                self.server.stop()
                self.ended.wait(AWAY_SECONDS)
                self.server.start()
                self.done.append(self.plan.round)


@contextlib.contextmanager
def crashing_postgres(plan: FaultPlan, rounds: int, crashes: int = 3) -> Iterator[tuple[str, Crashes]]:
    """A server, the URL of an empty database on it, and its crashes, evenly over the rounds."""
    if binary("initdb") is None or binary("postgres") is None:
        raise SystemExit("--postgres: no initdb and postgres here; install PostgreSQL's server")
    with postgresql_server() as server:
        at = [(1 + index) * rounds // (crashes + 1) for index in range(crashes)]
        crashing = Crashes(server, plan, at)
        watcher = threading.Thread(target=crashing.watch, name="crashes")
        watcher.start()
        try:
            yield server.new_database("chaos"), crashing
        finally:
            crashing.ended.set()
            watcher.join()
