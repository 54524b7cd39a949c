"""The ledger: what a run has done, durable before the next thing is done.

A run has stages, a stage has rounds, a round has phases. A phase's row is written when its output is
durable, so a run that died goes on behind the last row. Bulky outputs are files that rows name.

    runs      helpdesk-ppo  seed 0  recipe 5f3a...  epoch 2
    stages    ppo  running
    rounds    ppo 12  open  prompts 1408..1536
    phases    ppo 12 sampled  {"chunks": 4, "lengths": [...]}
              ppo 12 scored   {"path": ..., "sha256": ...}
    versions  policy 11  sha256 ...

Taking the lease raises the run's epoch; a writer whose epoch is no longer the run's is refused. A write whose
answer was lost may be repeated: the same again changes nothing, and anything else is refused.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestrator.artifacts import ArtifactRows
from orchestrator.database import LedgerError, LostLease, open_engine
from orchestrator.label_rows import LabelRows
from orchestrator.lease import Values, same
from orchestrator.schema import phases, rounds, stages

__all__ = ["Ledger", "LedgerError", "LostLease", "Round", "open_engine", "sqlite_url"]


@dataclass(frozen=True)
class Round:
    """One round's row."""

    number: int
    status: str
    cursor_start: int
    cursor_end: int
    metrics: dict[str, Any]
    seconds: float | None
    payloads_removed: bool = False


def sqlite_url(run_directory: Path) -> str:
    """The default ledger: a file beside the run."""
    return f"sqlite:///{run_directory.resolve() / 'ledger.db'}"


class Ledger(ArtifactRows, LabelRows):
    """One run's rows. Reading needs no lease; every write checks that the lease is still held."""

    # --- stages ------------------------------------------------------------------------------

    def begin_stage(self, stage: str, kind: str, position: int) -> Values:
        """The stage's row, made if it is new."""

        def begin(connection: Connection, _: Values) -> None:
            if connection.execute(stages.select().where(self._stage_is(stage))).first() is None:
                values = dict(run=self.run, stage=stage, kind=kind, position=position)
                values |= dict(status="running", seconds=0.0, result={})
                connection.execute(stages.insert().values(**values))

        row = self.stage(stage)
        if row is None:
            self._write(begin)
            row = self.stage(stage)
        assert row is not None
        return row

    def stage(self, stage: str) -> Values | None:
        """The stage's row, or None."""
        return self._one(stages.select().where(self._stage_is(stage)))

    def all_stages(self) -> list[Values]:
        """The stages begun so far, in order."""
        query = stages.select().where(stages.c.run == self.run)
        return self._all(query.order_by(stages.c.position, stages.c.stage))

    def add_stage_seconds(self, stage: str, seconds: float) -> None:
        """Adds time spent in a stage; a stage that was resumed adds up."""
        row = self.stage(stage)
        if row is None:
            raise LedgerError(f"stage {stage} has not begun")
        # The sum, and not an addition: it may be written twice. Nobody else writes while the lease is ours.
        self._set_stage(stage, seconds=row["seconds"] + seconds)

    def finish_stage(self, stage: str, result: dict[str, Any]) -> None:
        """Marks a stage finished with what it made."""
        self._set_stage(stage, status="finished", result=result)

    # --- rounds and phases ---------------------------------------------------------------------

    def begin_round(self, stage: str, number: int, prompts: int) -> Round:
        """The round's row, made if it is new, with the next `prompts` places of the stage's cursor."""

        def begin(connection: Connection, _: Values) -> None:
            if connection.execute(rounds.select().where(self._round_is(stage, number))).first() is not None:
                return
            ends = sa.select(sa.func.max(rounds.c.cursor_end)).where(
                rounds.c.run == self.run, rounds.c.stage == stage
            )
            used = connection.execute(ends).scalar_one_or_none() or 0
            values = dict(run=self.run, stage=stage, round=number, status="open", metrics={})
            values |= dict(cursor_start=used, cursor_end=used + prompts, begun_at=time.time())
            connection.execute(rounds.insert().values(**values))

        made = self.round(stage, number)
        if made is None:
            self._write(begin)
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
        """Closes a round: its prompts are used, its version is the stage's current one.

        The same again changes nothing; LedgerError for a round that is closed with other numbers or unknown.
        """

        def commit(connection: Connection, _: Values) -> None:
            known = connection.execute(rounds.select().where(self._round_is(stage, number))).first()
            if known is None:
                raise LedgerError(f"{stage} {number} is committed and never began")
            if known.status == "open":
                values = dict(status="committed", metrics=metrics, seconds=seconds)
                connection.execute(rounds.update().where(self._round_is(stage, number)).values(**values))
            elif known.status != "committed" or not same(known.metrics, metrics):
                raise LedgerError(f"{stage} {number} is {known.status} already, with other numbers")

        self._write(commit)

    def roll_back_rounds(self, stage: str, after: int) -> None:
        """Marks the rounds behind `after` rolled back; their prompts stay used."""
        behind = sa.and_(rounds.c.run == self.run, rounds.c.stage == stage, rounds.c.round > after)
        change = rounds.update().where(behind).values(status="rolled_back")
        self._write(lambda connection, _: connection.execute(change))

    def remove_payloads(self, stage: str, numbers: list[int]) -> None:
        """Says that these rounds' payload files may go."""
        of_these = sa.and_(rounds.c.run == self.run, rounds.c.stage == stage, rounds.c.round.in_(numbers))
        change = rounds.update().where(of_these).values(payloads_removed_at=time.time())
        self._write(lambda connection, _: connection.execute(change))

    def newest_round(self, stage: str) -> int:
        """The number of the stage's newest round; 0 before the first."""
        query = sa.select(sa.func.max(rounds.c.round).label("newest"))
        row = self._one(query.where(rounds.c.run == self.run, rounds.c.stage == stage))
        return int(row["newest"] or 0) if row else 0

    def closed_rounds(self, stage: str, up_to: int) -> list[int]:
        """Rounds that are over and whose payloads are there, up to a number."""
        of_stage = sa.and_(rounds.c.run == self.run, rounds.c.stage == stage, rounds.c.round <= up_to)
        there = sa.and_(rounds.c.payloads_removed_at.is_(None), rounds.c.status != "open")
        query = sa.select(rounds.c.round).where(of_stage, there).order_by(rounds.c.round)
        return [row["round"] for row in self._all(query)]

    def phase(self, stage: str, number: int, phase: str) -> dict[str, Any] | None:
        """A phase's output, or None while it is not durable."""
        row = self._one(phases.select().where(self._phase_is(stage, number, phase)))
        return row["output"] if row else None

    def all_phases(self, stage: str, phase: str) -> dict[int, dict[str, Any]]:
        """The outputs of one phase by round."""
        query = phases.select().where(
            phases.c.run == self.run, phases.c.stage == stage, phases.c.phase == phase
        )
        return {row["round"]: row["output"] for row in self._all(query.order_by(phases.c.round))}

    def phase_rows(self) -> list[Values]:
        """Every phase's row, in the order of their writing; those from before it was counted come first."""
        order = (sa.func.coalesce(phases.c.sequence, 0), phases.c.finished_at)
        return self._all(phases.select().where(phases.c.run == self.run).order_by(*order))

    def finish_phase(self, stage: str, number: int, phase: str, output: dict[str, Any]) -> dict[str, Any]:
        """Records that a phase's output is durable.

        The same output again under the same epoch changes nothing; anything else is an error of ours.
        """

        def finish(connection: Connection, row: Values) -> None:
            known = connection.execute(phases.select().where(self._phase_is(stage, number, phase))).first()
            if known is None:
                values = dict(run=self.run, stage=stage, round=number, phase=phase, epoch=self.epoch)
                values |= dict(output=output, finished_at=time.time())
                values |= dict(sequence=self._next_sequence(connection, row))
                connection.execute(phases.insert().values(**values))
            elif known.epoch != self.epoch or not same(known.output, output):
                raise LedgerError(f"{stage} {number} {phase} is recorded already, by epoch {known.epoch}")

        self._write(finish)
        return output

    # --- inside --------------------------------------------------------------------------------

    def _set_stage(self, stage: str, **values: Any) -> None:
        change = stages.update().where(self._stage_is(stage)).values(**values)
        self._write(lambda connection, _: connection.execute(change))

    def _stage_is(self, stage: str) -> Any:
        return sa.and_(stages.c.run == self.run, stages.c.stage == stage)

    def _round_is(self, stage: str, number: int) -> Any:
        return sa.and_(rounds.c.run == self.run, rounds.c.stage == stage, rounds.c.round == number)

    def _phase_is(self, stage: str, number: int, phase: str) -> Any:
        named = sa.and_(phases.c.round == number, phases.c.phase == phase)
        return sa.and_(phases.c.run == self.run, phases.c.stage == stage, named)


def _as_round(row: Values) -> Round:
    return Round(
        row["round"],
        row["status"],
        row["cursor_start"],
        row["cursor_end"],
        row["metrics"],
        row["seconds"],
        row["payloads_removed_at"] is not None,
    )
