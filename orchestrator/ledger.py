"""The ledger: what a run has done, durable before the next thing is done.

A run has stages, a stage has rounds, a round has phases. A phase's row is written when its output is
durable, so a run that died goes on behind the last row. Bulky outputs are files that rows name.

    runs      helpdesk-ppo  seed 0  recipe 5f3a...  epoch 2
    stages    ppo  running
    rounds    ppo 12  open  prompts 1408..1536
    phases    ppo 12 sampled  {"chunks": [{"path": ..., "sha256": ...}]}
              ppo 12 scored   {"rollouts": {...}}
    versions  policy 11  sha256 ...  parent policy 10

Taking the lease raises the run's epoch; a writer whose epoch is no longer the run's is refused.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from orchestrator.schema import checkpoints, comparisons, metadata, phases, rounds, runs, stages, versions


class LedgerError(Exception):
    """The ledger refuses: an unknown run, a changed recipe, a writer that lost its lease."""


class LostLease(LedgerError):
    """Another orchestrator took the run over; this one must write nothing more."""


@dataclass(frozen=True)
class Round:
    """One round's row."""

    number: int
    status: str
    cursor_start: int
    cursor_end: int
    metrics: dict[str, Any]
    seconds: float | None


def open_engine(url: str) -> Engine:
    """An engine for sqlite:///path or postgresql+psycopg://...; SQLite in WAL mode with full fsync."""
    engine = sa.create_engine(url)
    if engine.dialect.name == "sqlite":

        @sa.event.listens_for(engine, "connect")
        def durable(connection: Any, _: Any) -> None:
            # A row that is there must stay there when the machine loses power.
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "foreign_keys=ON"):
                connection.execute(f"PRAGMA {pragma}")

    metadata.create_all(engine)
    return engine


def sqlite_url(run_directory: Path) -> str:
    """The default ledger: a file beside the run."""
    return f"sqlite:///{run_directory.resolve() / 'ledger.db'}"


class Ledger:
    """One run's rows. Reading needs no lease; every write checks that the lease is still held."""

    def __init__(self, engine: Engine, run: str) -> None:
        self.engine = engine
        self.run = run
        self.epoch = 0

    # --- the run -----------------------------------------------------------------------------

    def create(self, *, seed: int, recipe: dict[str, Any], recipe_sha256: str, code_sha256: str) -> None:
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
        )
        try:
            with self.engine.begin() as connection:
                connection.execute(runs.insert().values(**row))
        except sa.exc.IntegrityError:
            raise LedgerError(f"run {self.run} exists: resume it, or choose another name") from None

    def info(self) -> dict[str, Any]:
        """The run's row. LedgerError when there is none."""
        row = self._one(runs.select().where(runs.c.run == self.run))
        if row is None:
            raise LedgerError(f"run {self.run} is not in this ledger")
        return row

    def take_lease(self) -> int:
        """Raises the epoch by one and makes it ours: every earlier holder is fenced off from now on."""
        with self.engine.begin() as connection:
            connection.execute(runs.update().where(runs.c.run == self.run).values(epoch=runs.c.epoch + 1))
            self.epoch = connection.execute(
                sa.select(runs.c.epoch).where(runs.c.run == self.run)
            ).scalar_one()
        return self.epoch

    def set_run(self, **values: Any) -> None:
        """Changes columns of the run's row."""
        with self._write() as connection:
            connection.execute(runs.update().where(runs.c.run == self.run).values(**values))

    def note(self, text: str) -> None:
        """Keeps a sentence that the report must show."""
        notes = self.info()["notes"]
        if text not in notes:
            self.set_run(notes=[*notes, text])

    # --- stages ------------------------------------------------------------------------------

    def begin_stage(self, stage: str, kind: str, position: int) -> dict[str, Any]:
        """The stage's row, made if it is new."""
        row = self.stage(stage)
        if row is None:
            with self._write() as connection:
                connection.execute(
                    stages.insert().values(
                        run=self.run,
                        stage=stage,
                        kind=kind,
                        position=position,
                        status="running",
                        seconds=0.0,
                        result={},
                    )
                )
            row = self.stage(stage)
        assert row is not None
        return row

    def stage(self, stage: str) -> dict[str, Any] | None:
        """The stage's row, or None."""
        return self._one(stages.select().where(stages.c.run == self.run, stages.c.stage == stage))

    def all_stages(self) -> list[dict[str, Any]]:
        """The stages begun so far, in order."""
        return self._all(stages.select().where(stages.c.run == self.run).order_by(stages.c.position))

    def add_stage_seconds(self, stage: str, seconds: float) -> None:
        """Adds time spent in a stage; a stage that was resumed adds up."""
        with self._write() as connection:
            connection.execute(
                stages.update()
                .where(stages.c.run == self.run, stages.c.stage == stage)
                .values(seconds=stages.c.seconds + seconds)
            )

    def finish_stage(self, stage: str, result: dict[str, Any]) -> None:
        """Marks a stage finished with what it made."""
        with self._write() as connection:
            connection.execute(
                stages.update()
                .where(stages.c.run == self.run, stages.c.stage == stage)
                .values(status="finished", result=result)
            )

    # --- rounds and phases ---------------------------------------------------------------------

    def begin_round(self, stage: str, number: int, prompts: int) -> Round:
        """The round's row, made if it is new, with the next `prompts` places of the stage's cursor."""
        known = self.round(stage, number)
        if known is not None:
            return known
        with self._write() as connection:
            used = (
                connection.execute(
                    sa.select(sa.func.max(rounds.c.cursor_end)).where(
                        rounds.c.run == self.run, rounds.c.stage == stage
                    )
                ).scalar_one_or_none()
                or 0
            )
            connection.execute(
                rounds.insert().values(
                    run=self.run,
                    stage=stage,
                    round=number,
                    status="open",
                    cursor_start=used,
                    cursor_end=used + prompts,
                    metrics={},
                    begun_at=time.time(),
                )
            )
        made = self.round(stage, number)
        assert made is not None
        return made

    def round(self, stage: str, number: int) -> Round | None:
        """One round's row, or None."""
        row = self._one(rounds.select().where(self._round_is(stage, number)))
        return _as_round(row) if row else None

    def all_rounds(self, stage: str) -> list[Round]:
        """The rounds begun so far, in order."""
        query = rounds.select().where(rounds.c.run == self.run, rounds.c.stage == stage)
        return [_as_round(row) for row in self._all(query.order_by(rounds.c.round))]

    def commit_round(self, stage: str, number: int, metrics: dict[str, Any], seconds: float) -> None:
        """Closes a round: its prompts are used, its version is the stage's current one."""
        self._set_round(stage, number, status="committed", metrics=metrics, seconds=seconds)

    def roll_back_rounds(self, stage: str, after: int) -> None:
        """Marks the rounds behind `after` rolled back; their prompts stay used."""
        with self._write() as connection:
            connection.execute(
                rounds.update()
                .where(rounds.c.run == self.run, rounds.c.stage == stage, rounds.c.round > after)
                .values(status="rolled_back")
            )

    def phase(self, stage: str, number: int, phase: str) -> dict[str, Any] | None:
        """A phase's output, or None while it is not durable."""
        row = self._one(
            phases.select().where(
                phases.c.run == self.run,
                phases.c.stage == stage,
                phases.c.round == number,
                phases.c.phase == phase,
            )
        )
        return row["output"] if row else None

    def all_phases(self, stage: str, phase: str) -> dict[int, dict[str, Any]]:
        """The outputs of one phase by round."""
        query = phases.select().where(
            phases.c.run == self.run, phases.c.stage == stage, phases.c.phase == phase
        )
        return {row["round"]: row["output"] for row in self._all(query.order_by(phases.c.round))}

    def finish_phase(self, stage: str, number: int, phase: str, output: dict[str, Any]) -> dict[str, Any]:
        """Records that a phase's output is durable. Recording it twice is an error of ours."""
        with self._write() as connection:
            connection.execute(
                phases.insert().values(
                    run=self.run,
                    stage=stage,
                    round=number,
                    phase=phase,
                    epoch=self.epoch,
                    output=output,
                    finished_at=time.time(),
                )
            )
        return output

    # --- versions, checkpoints, comparisons --------------------------------------------------

    def add_version(self, model: str, number: int, sha256: str, uri: str, stage: str, round: int) -> None:
        """Keeps a published version; the same again changes nothing."""
        with self._write() as connection:
            known = connection.execute(
                versions.select().where(
                    versions.c.run == self.run, versions.c.model == model, versions.c.number == number
                )
            ).first()
            if known is None:
                connection.execute(
                    versions.insert().values(
                        run=self.run,
                        model=model,
                        number=number,
                        sha256=sha256,
                        uri=uri,
                        stage=stage,
                        round=round,
                        published_at=time.time(),
                    )
                )
            elif known.sha256 != sha256:
                raise LedgerError(f"{model} version {number} is {known.sha256} here, not {sha256}")

    def latest_version(self, model: str) -> dict[str, Any] | None:
        """The newest version of a model, or None."""
        query = versions.select().where(versions.c.run == self.run, versions.c.model == model)
        return self._one(query.order_by(versions.c.number.desc()).limit(1))

    def newest_model(self) -> str:
        """The model that was published last. LedgerError when none was."""
        query = versions.select().where(versions.c.run == self.run).order_by(versions.c.published_at.desc())
        row = self._one(query.limit(1))
        if row is None:
            raise LedgerError(f"run {self.run} has published no model yet")
        return str(row["model"])

    def version(self, model: str, number: int) -> dict[str, Any] | None:
        """One version of a model, or None."""
        return self._one(
            versions.select().where(
                versions.c.run == self.run, versions.c.model == model, versions.c.number == number
            )
        )

    def add_checkpoint(self, stage: str, step: int, uri: str, sha256: str) -> None:
        """Keeps a checkpoint's place."""
        with self._write() as connection:
            connection.execute(
                checkpoints.delete().where(
                    checkpoints.c.run == self.run, checkpoints.c.stage == stage, checkpoints.c.step == step
                )
            )
            connection.execute(
                checkpoints.insert().values(run=self.run, stage=stage, step=step, uri=uri, sha256=sha256)
            )

    def latest_checkpoint(self, stage: str) -> dict[str, Any] | None:
        """The stage's newest checkpoint, or None."""
        query = checkpoints.select().where(checkpoints.c.run == self.run, checkpoints.c.stage == stage)
        return self._one(query.order_by(checkpoints.c.step.desc()).limit(1))

    def add_comparisons(self, collection: str, rows: list[dict[str, Any]]) -> None:
        """Keeps a collection of comparisons whole: all rows, or none when it is already there."""
        with self._write() as connection:
            known = connection.execute(
                sa.select(sa.func.count())
                .select_from(comparisons)
                .where(comparisons.c.run == self.run, comparisons.c.collection == collection)
            ).scalar_one()
            if not known and rows:
                connection.execute(
                    comparisons.insert(),
                    [
                        {"run": self.run, "collection": collection, "position": position, **row}
                        for position, row in enumerate(rows)
                    ],
                )

    def all_comparisons(self, collection: str) -> list[dict[str, Any]]:
        """A collection's comparisons, in order."""
        query = comparisons.select().where(
            comparisons.c.run == self.run, comparisons.c.collection == collection
        )
        return self._all(query.order_by(comparisons.c.position))

    # --- inside --------------------------------------------------------------------------------

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        """A transaction in which our epoch is still the run's."""
        with self.engine.begin() as connection:
            # The update takes the row's lock, so that no lease changes hands before we commit.
            held = connection.execute(
                runs.update()
                .where(runs.c.run == self.run, runs.c.epoch == self.epoch)
                .values(epoch=self.epoch)
            ).rowcount
            if held != 1:
                raise LostLease(f"run {self.run}: epoch {self.epoch} is not the lease any more")
            yield connection

    def _set_round(self, stage: str, number: int, **values: Any) -> None:
        with self._write() as connection:
            connection.execute(rounds.update().where(self._round_is(stage, number)).values(**values))

    def _round_is(self, stage: str, number: int) -> Any:
        return sa.and_(rounds.c.run == self.run, rounds.c.stage == stage, rounds.c.round == number)

    def _one(self, query: Any) -> dict[str, Any] | None:
        with self.engine.connect() as connection:
            row = connection.execute(query).mappings().first()
        return dict(row) if row else None

    def _all(self, query: Any) -> list[dict[str, Any]]:
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]


def _as_round(row: dict[str, Any]) -> Round:
    return Round(
        row["round"], row["status"], row["cursor_start"], row["cursor_end"], row["metrics"], row["seconds"]
    )
