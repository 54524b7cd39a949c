"""A run: its recipe, its ledger, its services, and the rule by which phases become durable."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from orchestrator.ledger import Ledger
from orchestrator.peers import Peers
from orchestrator.progress import Progress
from orchestrator.recipe import Recipe
from orchestrator.recipe_settings import HUB
from orchestrator.retention import Retainer
from orchestrator.timekeeping import Timekeeper
from trueline.v1 import types_pb2


class RunError(Exception):
    """The run cannot go on; the message says why and what to do."""


class Stopped(Exception):
    """Somebody asked the run to stop, and it stands at a durable point."""


@dataclass
class Run:
    """What every stage needs. Nothing here outlives the process but the ledger and the files it names."""

    recipe: Recipe
    directory: Path
    ledger: Ledger
    peers: Peers
    progress: Progress
    time: Timekeeper = field(default_factory=Timekeeper)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    loads: int = 0
    scorers: dict[str, types_pb2.ModelVersion] = field(default_factory=dict)  # learned, as served

    @property
    def name(self) -> str:
        """The run's name: the ledger's key."""
        return self.ledger.run

    @cached_property
    def run_id(self) -> str:
        """Names the run in every header; to a service that outlives runs, two of one name are two."""
        return f"{self.name}@{round(self.ledger.info()['started_at'] * 1000):x}"

    @cached_property
    def retainer(self) -> Retainer:
        """Removes what the recipe does not keep."""
        return Retainer(self.ledger, self.directory, self.recipe.retention)

    @property
    def models(self) -> Path:
        """Where versions are published."""
        return (self.directory / "models").resolve()

    def header(self, request_id: str, expected_step: int = 0) -> types_pb2.CallHeader:
        """The header of a mutating call. Request ids name the work, not the try: a retry is a repeat."""
        return types_pb2.CallHeader(
            run_id=self.run_id, epoch=self.ledger.epoch, request_id=request_id, expected_step=expected_step
        )

    def locate(self, model: str) -> types_pb2.ModelLocation:
        """The newest version of a model: one of the run's own, or a directory that the recipe names."""
        row = self.ledger.latest_version(model)
        if row is not None:
            return location(model, row)
        if model in self.recipe.models:
            place = self.recipe.models[model]
            if place.startswith(HUB):
                return types_pb2.ModelLocation(uri=place)
            # No version: whoever loads a plain directory names it by the digest of what it finds.
            return types_pb2.ModelLocation(uri=str(Path(place).resolve()))
        raise RunError(f"model {model!r} has no version yet and the recipe names no directory for it")

    async def durable(
        self, stage: str, number: int, phase: str, produce: Callable[[], Awaitable[dict[str, Any]]]
    ) -> dict[str, Any]:
        """A phase's output: from the ledger when it is there, else produced and recorded.

        The one place where a run may be told to stop: between phases nothing is half done.
        """
        known = self.ledger.phase(stage, number, phase)
        if known is not None:
            return known
        if self.stopping.is_set():
            raise Stopped(f"stopped before {stage} {number} {phase}")
        with self.time.phase(phase):
            output = await produce()
        return self.ledger.finish_phase(stage, number, phase, output)

    def mark(self, stage: str, number: int, phase: str, output: dict[str, Any], since: "Stopwatch") -> None:
        """Records a phase that overlaps with others, once; its seconds count from where `since` began."""
        if self.ledger.phase(stage, number, phase) is None:
            self.time.count(phase, since.start)
            self.ledger.finish_phase(stage, number, phase, output)

    async def serve_policy(self, model: str) -> types_pb2.ModelVersion:
        """Makes the policy service serve a model's newest version; returns which that is."""
        where = self.locate(model)
        return await self.peers.serve_policy(where, self._load_header(name_of(model, where)))

    async def serve_reference(self, model: str) -> types_pb2.ModelVersion:
        """Makes the reference service serve a model's newest version."""
        where = self.locate(model)
        return await self.peers.serve_reference(
            where, self.header(f"serve/reference/{name_of(model, where)}")
        )

    async def serve_scorers(self, *scorers: str | None) -> None:
        """Makes the reward service serve the newest versions of learned scorers; rules need nothing."""
        for scorer in dict.fromkeys(scorers):
            if scorer in self.recipe.services.reward.learned:
                where = self.locate(scorer)
                header = self._load_header(name_of(scorer, where))
                self.scorers[scorer] = await self.peers.serve_reward(scorer, where, header)

    def _load_header(self, version: str) -> types_pb2.CallHeader:
        """A header for loading. Each load is a new request: going back to a version is no repeat of it."""
        self.loads += 1
        return self.header(f"load/{self.ledger.epoch}/{self.loads}/{version}")


def name_of(model: str, where: types_pb2.ModelLocation) -> str:
    """A version as a person reads it: policy@12, or start@0 for a plain directory."""
    return f"{model}@{where.version.number}"


def location(model: str, row: dict[str, Any]) -> types_pb2.ModelLocation:
    """Where a version lies, from its ledger row."""
    version = types_pb2.ModelVersion(model=model, number=row["number"], sha256=row["sha256"])
    return types_pb2.ModelLocation(version=version, uri=row["uri"])


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self.start
