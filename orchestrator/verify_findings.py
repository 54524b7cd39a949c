"""What `verify` reads and what it says: a run's rows as of one moment, and findings."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    Finding("step_skipped", "ppo 12 trained", "step 13", "step 12")
    """

    kind: str
    """A short stable word."""
    where: str
    """The row or file."""
    found: str
    """What is there."""
    expected: str
    """What should be."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.found}; expected: {self.expected}"

    def as_dict(self) -> dict[str, str]:
        """For programs."""
        return asdict(self)


class Rows:
    """A run's rows, found by what they are about; phases in the order of their writing."""

    def __init__(self, tables: Mapping[str, list[Row]]) -> None:
        self.run = tables["runs"][0]
        self.stages = sorted(tables["stages"], key=lambda row: (row["position"], row["stage"]))
        self.phases = sorted(tables["phases"], key=lambda row: (row["sequence"] or 0, row["finished_at"]))
        self.versions = sorted(tables["versions"], key=lambda row: (row["model"], row["number"]))
        self.checkpoints = sorted(tables["checkpoints"], key=lambda row: (row["stage"], row["step"]))
        self.comparisons = sorted(tables["comparisons"], key=lambda row: (row["collection"], row["position"]))
        self._rounds = sorted(tables["rounds"], key=lambda row: row["round"])

    def rounds(self, stage: str) -> list[Row]:
        """A stage's rounds in order."""
        return [row for row in self._rounds if row["stage"] == stage]

    def phase(self, stage: str, number: int, phase: str) -> Row | None:
        """One phase's row, or None."""
        return self._by_name.get((stage, number, phase))

    def phases_of(self, stage: str) -> list[Row]:
        """A stage's phases in the order of their writing."""
        return self._by_stage[stage]

    def phases_named(self, stage: str, phase: str) -> list[Row]:
        """One phase of every round, by round."""
        named = (row for row in self.phases_of(stage) if row["phase"] == phase)
        return sorted(named, key=lambda row: row["round"])

    def chunks(self, stage: str, number: int, label: str = "") -> list[Row]:
        """A round's chunks in order of their index."""
        prefix = f"{label}chunk-"
        of_round = self._by_round[stage, number]
        found = [row for row in of_round if row["phase"].startswith(prefix)]
        return sorted(found, key=lambda row: int(row["phase"].removeprefix(prefix)))

    def collection(self, name: str) -> list[Row]:
        """A collection's comparisons in order."""
        return [row for row in self.comparisons if row["collection"] == name]

    def position(self, phase: Row) -> int:
        """The phase's place in the order of writing."""
        return self._positions[phase["stage"], phase["round"], phase["phase"]]

    @cached_property
    def _by_name(self) -> dict[tuple[str, int, str], Row]:
        return {(row["stage"], row["round"], row["phase"]): row for row in self.phases}

    @cached_property
    def _positions(self) -> dict[tuple[str, int, str], int]:
        return {name: place for place, name in enumerate(self._by_name)}

    @cached_property
    def _by_stage(self) -> dict[str, list[Row]]:
        grouped = defaultdict(list)
        for row in self.phases:
            grouped[row["stage"]].append(row)
        return grouped

    @cached_property
    def _by_round(self) -> dict[tuple[str, int], list[Row]]:
        grouped = defaultdict(list)
        for row in self.phases:
            grouped[row["stage"], row["round"]].append(row)
        return grouped
