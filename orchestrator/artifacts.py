"""The ledger's rows of what lies in files or is kept for good: versions, checkpoints, comparisons."""

import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestrator.database import LedgerError
from orchestrator.lease import LeasedRun, Values, same
from orchestrator.schema import checkpoints, comparisons, versions


class ArtifactRows(LeasedRun):
    """Versions, checkpoints and comparisons of one run."""

    def add_version(self, model: str, number: int, sha256: str, uri: str, stage: str, round: int) -> None:
        """Keeps a published version; the same again changes nothing, another under its number is refused."""

        def add(connection: Connection, row: Values) -> None:
            known = connection.execute(versions.select().where(self._version_is(model, number))).first()
            if known is None:
                values = dict(run=self.run, model=model, number=number, sha256=sha256, uri=uri, stage=stage)
                values |= dict(round=round, published_at=time.time())
                values |= dict(sequence=self._next_sequence(connection, row))
                connection.execute(versions.insert().values(**values))
            elif known.sha256 != sha256:
                raise LedgerError(f"{model} version {number} is {known.sha256} here, not {sha256}")

        self._write(add)

    def latest_version(self, model: str) -> Values | None:
        """The newest version of a model, or None."""
        query = versions.select().where(versions.c.run == self.run, versions.c.model == model)
        return self._one(query.order_by(versions.c.number.desc()).limit(1))

    def newest_model(self) -> str:
        """The model that was published last. LedgerError when none was."""
        query = versions.select().where(versions.c.run == self.run)
        written = sa.func.coalesce(versions.c.sequence, 0)  # rows from before they were counted are older
        row = self._one(query.order_by(written.desc(), versions.c.published_at.desc()).limit(1))
        if row is None:
            raise LedgerError(f"run {self.run} has published no model yet")
        return str(row["model"])

    def version(self, model: str, number: int) -> Values | None:
        """One version of a model, or None."""
        return self._one(versions.select().where(self._version_is(model, number)))

    def all_versions(self) -> list[Values]:
        """Every version of every model, a model's in order of their numbers."""
        query = versions.select().where(versions.c.run == self.run)
        return self._all(query.order_by(versions.c.model, versions.c.number))

    def kept_versions(self) -> list[Values]:
        """Those whose files are there, a model's in order of their numbers."""
        query = versions.select().where(versions.c.run == self.run, versions.c.removed_at.is_(None))
        return self._all(query.order_by(versions.c.model, versions.c.number))

    def remove_version(self, model: str, number: int, parent: Values | None) -> None:
        """Says that a version's files may go, and keeps what their manifest said of its parent."""
        values = dict(parent=parent, removed_at=time.time())
        where = sa.and_(self._version_is(model, number), versions.c.removed_at.is_(None))
        self._write(lambda connection, _: connection.execute(versions.update().where(where).values(**values)))

    def add_checkpoint(self, stage: str, step: int, uri: str, sha256: str) -> None:
        """Keeps a checkpoint's place; a later one of the same step takes its place."""

        def add(connection: Connection, _: Values) -> None:
            connection.execute(checkpoints.delete().where(self._checkpoint_is(stage, step)))
            values = dict(run=self.run, stage=stage, step=step, uri=uri, sha256=sha256)
            connection.execute(checkpoints.insert().values(**values))

        self._write(add)

    def all_checkpoints(self) -> list[Values]:
        """Every stage's checkpoints, in order of their steps."""
        query = checkpoints.select().where(checkpoints.c.run == self.run)
        return self._all(query.order_by(checkpoints.c.stage, checkpoints.c.step))

    def kept_checkpoints(self, stage: str) -> list[Values]:
        """The stage's checkpoints whose files are there, in order of their steps."""
        of_stage = sa.and_(checkpoints.c.run == self.run, checkpoints.c.stage == stage)
        query = checkpoints.select().where(of_stage, checkpoints.c.removed_at.is_(None))
        return self._all(query.order_by(checkpoints.c.step))

    def remove_checkpoint(self, stage: str, step: int) -> None:
        """Says that a checkpoint's files may go."""
        change = checkpoints.update().where(self._checkpoint_is(stage, step)).values(removed_at=time.time())
        self._write(lambda connection, _: connection.execute(change))

    def add_comparisons(self, collection: str, rows: list[Values]) -> None:
        """Keeps a collection of comparisons whole. The same again changes nothing; others are refused."""

        def add(connection: Connection, _: Values) -> None:
            kept = connection.execute(self._comparisons(collection)).mappings().all()
            if not kept and rows:
                placed = [
                    {"run": self.run, "collection": collection, "position": position, **row}
                    for position, row in enumerate(rows)
                ]
                connection.execute(comparisons.insert(), placed)
            elif len(kept) != len(rows) or not same(
                [{name: old[name] for name in row} for old, row in zip(kept, rows, strict=True)], rows
            ):
                raise LedgerError(
                    f"collection {collection!r} is here already, with {len(kept)} other rows than the "
                    f"{len(rows)} given"
                )

        self._write(add)

    def all_comparisons(self, collection: str) -> list[Values]:
        """A collection's comparisons, in order."""
        return self._all(self._comparisons(collection))

    def collections(self) -> list[str]:
        """The names of all collections of comparisons."""
        query = sa.select(comparisons.c.collection).where(comparisons.c.run == self.run).distinct()
        return sorted(row["collection"] for row in self._all(query))

    def _comparisons(self, collection: str) -> Any:
        query = comparisons.select().where(
            comparisons.c.run == self.run, comparisons.c.collection == collection
        )
        return query.order_by(comparisons.c.position)

    def _version_is(self, model: str, number: int) -> Any:
        return sa.and_(versions.c.run == self.run, versions.c.model == model, versions.c.number == number)

    def _checkpoint_is(self, stage: str, step: int) -> Any:
        return sa.and_(
            checkpoints.c.run == self.run, checkpoints.c.stage == stage, checkpoints.c.step == step
        )


def place_of(row: Values) -> Path:
    """The directory of a version or a checkpoint."""
    return Path(row["uri"].removeprefix("file://"))
