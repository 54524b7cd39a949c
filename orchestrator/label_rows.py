"""The ledger's rows of labels: what judge and people said of pairs, and what waits for a person."""

import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestrator.database import LedgerError
from orchestrator.lease import LeasedRun, Values, same
from orchestrator.schema import labels

ASIDE = "aside-"  # before the item of a pair that was asked about again, such as "aside-1:p7/0-2"
ASKED = ("source", "prompt", "first", "second")  # what a row is about, whatever comes of it


class LabelRows(LeasedRun):
    """Labels of one run. A row is one pair's, of one round of one stage."""

    def add_labels(self, stage: str, number: int, rows: Sequence[Values]) -> None:
        """Keeps labels, or questions to people, all or none.

        The same pair again changes nothing, whoever answered it; another pair under its name is refused.
        """

        def add(connection: Connection, _: Values) -> None:
            known = {row["item"]: row for row in connection.execute(self._of_round(stage, number)).mappings()}
            new: list[Values] = []
            for row in rows:
                there = known.get(row["item"])
                if there is None:
                    place = {
                        "run": self.run,
                        "stage": stage,
                        "round": number,
                        "position": len(known) + len(new),
                    }
                    new.append({**place, **row})
                elif not same({name: there[name] for name in ASKED}, {name: row[name] for name in ASKED}):
                    raise LedgerError(f"{stage} {number} has another pair named {row['item']!r}")
            for row in new:  # one by one: their columns differ
                connection.execute(labels.insert().values(**row))

        self._write(add)

    def answer_label(self, stage: str, number: int, item: str, annotator: str, **answer: Any) -> None:
        """Keeps a person's answer: probability, or reason and message. The last word counts."""
        where = sa.and_(
            labels.c.run == self.run, labels.c.stage == stage, labels.c.round == number, labels.c.item == item
        )
        values = {"annotator": annotator, "answered_at": time.time(), **answer}
        self._write(lambda connection, _: connection.execute(labels.update().where(where).values(**values)))

    def set_aside(self, stage: str, number: int, items: Sequence[str]) -> None:
        """Has these pairs asked about anew: what was said of them is kept under other names, for an audit."""

        def rename(connection: Connection, _: Values) -> None:
            taken = {row["item"] for row in connection.execute(self._of_round(stage, number)).mappings()}
            for item in taken.intersection(items):
                tries = sum(1 for name in taken if name.startswith(ASIDE) and name.endswith(f":{item}"))
                where = sa.and_(
                    labels.c.run == self.run,
                    labels.c.stage == stage,
                    labels.c.round == number,
                    labels.c.item == item,
                )
                change = labels.update().where(where).values(item=f"{ASIDE}{tries + 1}:{item}")
                connection.execute(change)

        self._write(rename)

    def labels_of(self, stage: str, number: int) -> list[Values]:
        """One round's labels, in the order in which they were asked for."""
        return self._all(self._of_round(stage, number))

    def all_labels(self, source: str | None = None) -> list[Values]:
        """Every label of the run, or those of one source."""
        query = labels.select().where(labels.c.run == self.run)
        if source is not None:
            query = query.where(labels.c.source == source)
        return self._all(query.order_by(labels.c.stage, labels.c.round, labels.c.position))

    def waiting_labels(self) -> list[Values]:
        """Pairs that wait for a person, in order."""
        return [row for row in self.all_labels("person") if row["answered_at"] is None]

    def _of_round(self, stage: str, number: int) -> Any:
        query = labels.select().where(
            labels.c.run == self.run, labels.c.stage == stage, labels.c.round == number
        )
        return query.order_by(labels.c.position)
