"""Removes what no row needs any more, so that a run that lasts a week fits its disk.

    rollouts/<stage>/<round>/        payloads of rounds that a kept checkpoint covers, but for the newest
    checkpoints/<stage>/<step>-.../  all but the newest
    models/<model>/<version>/        all but the newest

Kept whatever the recipe says: batches since the oldest checkpoint that is kept, which a crash replays; the
three newest versions of every model, which replicas serve and follow, later stages begin from and
rollbacks go back to; the one from which a running stage began its critic; all of a round that is not
closed. A row says "removed" before its files go, and files of such a row that are still there when a run
goes on, go then: a crash in between costs nothing.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from orchestrator.artifacts import place_of
from orchestrator.ledger import Ledger
from orchestrator.recipe_retention import Retention

log = logging.getLogger(__name__)
Row = dict[str, Any]

LEAST_VERSIONS = 3  # a rollback from round n goes to version n - 2, and n may be published by then
STALE_SECONDS = 3600.0  # a writer elsewhere that has not touched its file for so long is dead


class Retainer:
    """Applies a recipe's retention to one run's directory."""

    def __init__(
        self,
        ledger: Ledger,
        directory: Path,
        retention: Retention,
        needed: Callable[[], set[tuple[str, int]]] = set,
    ) -> None:
        self.ledger, self.directory, self.retention = ledger, directory.resolve(), retention
        self.needed = needed  # (model, version) that stay, however old

    def apply(self, stage: str) -> None:
        """Removes what the newest closed round of `stage` has made removable."""
        for path in [*self._checkpoints(stage), *self._payloads(stage), *self._versions()]:
            remove(path)

    def finish(self, stage: str) -> None:
        """Removes the checkpoints of a stage that nothing will go on with: its model is published."""
        if not self.retention.checkpoints:
            return
        for row in self.ledger.kept_checkpoints(stage):
            self.ledger.remove_checkpoint(stage, row["step"])
            remove(place_of(row))

    def sweep(self, local_writers: bool) -> None:
        """Before a run goes on: removes what its rows gave up, and what writers that died left half-written.

        `local_writers`: whoever writes models and checkpoints is a process that this orchestrator has yet to
        start. Where it runs elsewhere it may be writing just now, and only what is an hour old goes.
        """
        for path in [*self.directory.glob("models/*/v*"), *self.directory.glob("checkpoints/*/step-*")]:
            if str(path) in self._given_up:
                remove(path)
        for path in self.directory.glob("rollouts/*/*"):
            row = self.ledger.round(path.parent.name, int(path.name)) if path.name.isdecimal() else None
            if row is not None and row.payloads_removed:
                remove(path)
        for path in leftovers(self.directory):
            folder = path.relative_to(self.directory).parts[0]
            # Payloads and copies of data are written by holders of the lease, and that is us.
            ours = folder in ("rollouts", "data") or (local_writers and folder in ("models", "checkpoints"))
            if ours or untouched(path, STALE_SECONDS):
                log.warning("removing %s, left by a writer that died", path)
                remove(path)

    @property
    def _given_up(self) -> set[str]:
        rows = [*self.ledger.all_versions(), *self.ledger.all_checkpoints()]
        return {str(place_of(row)) for row in rows if row["removed_at"] is not None}

    def _checkpoints(self, stage: str) -> Iterator[Path]:
        kept = self.ledger.kept_checkpoints(stage)
        for row in older(kept, self.retention.checkpoints, least=1):
            self.ledger.remove_checkpoint(stage, row["step"])
            yield place_of(row)

    def _payloads(self, stage: str) -> Iterator[Path]:
        """Rounds that no replay sends again: those up to the oldest checkpoint that is kept."""
        covered = min((row["step"] for row in self.ledger.kept_checkpoints(stage)), default=0)
        if not self.retention.rollouts or not covered:
            return
        newest = self.ledger.newest_round(stage)
        numbers = [
            number
            for number in self.ledger.closed_rounds(stage, min(covered, newest - self.retention.rollouts))
            # Without it nobody could recount the round: an earlier program wrote it.
            if "names_sha256" in (self.ledger.phase(stage, number, "sampled") or {})
        ]
        if numbers:
            self.ledger.remove_payloads(stage, numbers)
        for number in numbers:
            yield self.directory / "rollouts" / stage / f"{number:06d}"

    def _versions(self) -> Iterator[Path]:
        kept, needed = self.ledger.kept_versions(), self.needed()
        for model in sorted({row["model"] for row in kept}):
            of_model = [row for row in kept if row["model"] == model]
            for row in older(of_model, self.retention.versions, LEAST_VERSIONS):
                if (model, row["number"]) in needed:
                    continue
                try:
                    manifest = json.loads((place_of(row) / "manifest.json").read_bytes())
                except (OSError, ValueError) as error:
                    # Its parent could not be told any more; `verify` finds it as long as it counts as kept.
                    log.warning("%s@%s stays: its manifest cannot be read (%s)", model, row["number"], error)
                    continue
                self.ledger.remove_version(model, row["number"], manifest.get("parent"))
                of_model = [each for each in of_model if each is not row]
            yield from self._given_up_of(model, {row["number"] for row in of_model})

    def _given_up_of(self, model: str, kept: set[int]) -> Iterator[Path]:
        """By what lies there and not by what was just marked: a replay publishes again what was removed."""
        for path in (self.directory / "models" / model).glob("v*"):
            number = int(path.name[1:]) if path.name[1:].isdecimal() else None
            row = self.ledger.version(model, number) if number is not None and number not in kept else None
            if row is not None and row["removed_at"] is not None:
                yield path


def older(rows: list[Row], count: int | None, least: int) -> list[Row]:
    """All but the newest `count` rows, or `least` where that is more; none where count is 0 or null."""
    return rows[: -max(count, least)] if count else []


def leftovers(directory: Path) -> Iterator[Path]:
    """What writers leave beside their files when they die, and what we were removing."""
    for pattern in (
        "models/*/*.tmp-*",
        "checkpoints/*/*.tmp-*",
        "rollouts/*/*.tmp-*",
        "rollouts/*/*/*.tmp-*",
        "data/*.tmp-*",
        "*.tmp-*",
    ):
        yield from directory.glob(pattern)


def untouched(path: Path, seconds: float) -> bool:
    """True where neither the path nor anything below it changed within `seconds`."""
    try:
        newest = max(each.stat().st_mtime for each in [path, *path.rglob("*")])
    except FileNotFoundError:
        return False  # its writer is at work
    return time.time() - newest > seconds


def remove(path: Path) -> None:
    """Removes a file or a directory, which is renamed first: no reader finds half of one."""
    try:
        if path.is_dir() and ".tmp-" not in path.name:
            path = path.rename(path.with_name(f"{path.name}.tmp-removed"))
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        # The run does not need it gone; the next start tries again.
        log.warning("cannot remove %s: %s", path, error)
