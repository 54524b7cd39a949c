"""A run's own row and its lease: who may write, and in which order what was written stands."""

import os
import secrets
import socket
import time
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from orchestrator.database import Database, LedgerError, LostLease, from_json, to_json
from orchestrator.schema import metadata, runs

T = TypeVar("T")
Values = dict[str, Any]


class LeasedRun:
    """One run's row. Reading needs no lease; every write checks that it is held, and may be repeated."""

    def __init__(self, engine: Engine, run: str) -> None:
        self.database = Database(engine)
        self.run = run
        self.epoch = 0

    def create(self, *, seed: int, recipe: Values, recipe_sha256: str, code_sha256: str) -> None:
        """Writes the run's first row. LedgerError when the run exists."""
        row = dict(
            run=self.run,
            seed=seed,
            recipe=recipe,
            recipe_sha256=recipe_sha256,
            code_sha256=code_sha256,
            data_sha256={},
            epoch=0,
            status="new",
            notes=[],
            peak_memory_bytes={},
            started_at=time.time(),
            # Ours from the first attempt on: a second one finds its own row and not another's.
            lease_holder=holder(),
        )

        def insert(connection: Connection) -> None:
            known = connection.execute(sa.select(runs.c.lease_holder).where(runs.c.run == self.run)).first()
            if known is None:
                connection.execute(runs.insert().values(**row))
            elif known.lease_holder != row["lease_holder"]:
                raise LedgerError(f"run {self.run} exists: resume it, or choose another name")

        try:
            self.database.write(insert)
        except sa.exc.IntegrityError:
            raise LedgerError(f"run {self.run} exists: resume it, or choose another name") from None

    def exists(self) -> bool:
        """True where the run has its row: whoever began it may have died before."""
        query = sa.select(runs.c.run).where(runs.c.run == self.run)
        return self.database.read(lambda connection: connection.execute(query).first()) is not None

    def info(self) -> Values:
        """The run's row. LedgerError when there is none."""
        row = self._one(runs.select().where(runs.c.run == self.run))
        if row is None:
            raise self._unknown()
        return row

    def take_lease(self) -> int:
        """Raises the epoch by one and makes it ours: every earlier holder is fenced off from now on."""
        ours = holder()

        def take(connection: Connection) -> int:
            row = self._locked(connection)
            epoch = int(row["epoch"])
            if row["lease_holder"] == ours:  # taken by an attempt whose answer was lost
                return epoch
            self._change(connection, epoch=epoch + 1, lease_holder=ours)
            return epoch + 1

        self.epoch = self.database.write(take)
        return self.epoch

    def set_run(self, **values: Any) -> None:
        """Changes columns of the run's row."""
        self._write(lambda connection, _: self._change(connection, **values))

    def note(self, text: str) -> None:
        """Keeps a sentence that the report must show."""

        def add(connection: Connection, row: Values) -> None:
            if text not in row["notes"]:
                self._change(connection, notes=[*row["notes"], text])

        self._write(add)

    def all_rows(self) -> dict[str, list[Values]]:
        """Every row of the run by table, all as of one moment."""

        def read(connection: Connection) -> dict[str, list[Values]]:
            queries = {
                table.name: table.select().where(table.c.run == self.run) for table in metadata.sorted_tables
            }
            return {
                name: [dict(row) for row in connection.execute(query).mappings()]
                for name, query in queries.items()
            }

        return self.database.read(read)

    def _write(self, work: Callable[[Connection, Values], T]) -> T:
        """A transaction in which our epoch is still the run's; `work` is given the run's row.

        The row is locked first, so that no lease changes hands before we commit.
        """

        def fenced(connection: Connection) -> T:
            row = self._locked(connection)
            if row["epoch"] != self.epoch:
                raise LostLease(
                    f"run {self.run}: epoch {self.epoch} is not the lease any more; {row['lease_holder']} "
                    f"took epoch {row['epoch']}"
                )
            return work(connection, row)

        return self.database.write(fenced)

    def _locked(self, connection: Connection) -> Values:
        """The run's row, which nobody else may change before this transaction ends."""
        # SQLite has no row locks and leaves FOR UPDATE out; there the whole transaction is a writer's.
        query = runs.select().where(runs.c.run == self.run).with_for_update()
        row = connection.execute(query).mappings().first()
        if row is None:
            raise self._unknown()
        return dict(row)

    def _next_sequence(self, connection: Connection, row: Values) -> int:
        """The place of what is written now among all that was written."""
        self._change(connection, sequence=row["sequence"] + 1)
        return int(row["sequence"]) + 1

    def _change(self, connection: Connection, **values: Any) -> None:
        connection.execute(runs.update().where(runs.c.run == self.run).values(**values))

    def _unknown(self) -> LedgerError:
        return LedgerError(f"run {self.run} is not in this ledger")

    def _one(self, query: Any) -> Values | None:
        rows = self._all(query)
        return rows[0] if rows else None

    def _all(self, query: Any) -> list[Values]:
        return self.database.read(
            lambda connection: [dict(row) for row in connection.execute(query).mappings()]
        )


def holder() -> str:
    """A name for one holding of a lease: host, process, and a word that no other holding has."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


def same(kept: Any, given: Any) -> bool:
    """True where a value is what a JSON column gives back for another: tuples are lists, keys are texts."""
    return to_json(kept) == to_json(from_json(to_json(given)))
