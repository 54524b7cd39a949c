"""A run: its recipe, its ledger, its services, and the rule by which phases become durable."""

import re
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.ledger import Ledger
from orchestrator.mending import Mending, Stopped
from orchestrator.peers import Peers
from orchestrator.progress import Progress
from orchestrator.recipe import Recipe
from orchestrator.recipe_settings import HUB
from orchestrator.refreshes import critics_needed
from orchestrator.retention import Retainer
from orchestrator.timekeeping import Timekeeper
from trueline import CallError
from trueline.v1 import types_pb2

T = TypeVar("T")
COMMIT = re.compile(r"[0-9a-f]{40}")  # by which the directory of a hub's snapshot is called
# Brings a service back to what the run needs of it: a version served, a stage begun and replayed.
Order = Callable[[], Awaitable[Any]]
Serve = Callable[[types_pb2.ModelLocation, types_pb2.CallHeader], Awaitable[types_pb2.ModelVersion]]


class RunError(Exception):
    """The run cannot go on; the message says why and what to do."""


@dataclass
class Run:
    """What every stage needs. Nothing here outlives the process but the ledger and the files it names."""

    recipe: Recipe
    directory: Path
    ledger: Ledger
    peers: Peers
    progress: Progress
    mending: Mending
    time: Timekeeper = field(default_factory=Timekeeper)
    stage: str = ""  # the one under way
    loads: int = 0
    scorers: dict[str, types_pb2.ModelVersion] = field(default_factory=dict)  # learned, as served
    judge: types_pb2.ModelVersion | None = None  # as served; None: an endpoint
    # By service: what it was told last, and is told again after a restart.
    orders: dict[str, dict[str, Order]] = field(default_factory=lambda: defaultdict(dict))
    # By model: how the stage that trains it writes a version again whose files were damaged.
    writers: dict[str, Callable[[int], Awaitable[None]]] = field(default_factory=dict)

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
        needed = partial(critics_needed, self.recipe, self.ledger)
        return Retainer(self.ledger, self.directory, self.recipe.retention, needed)

    @property
    def deadline(self) -> float:
        """Seconds that a call for one chunk may take."""
        return self.recipe.supervision.call_seconds

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
                return types_pb2.ModelLocation(uri=self._pinned(place))
            # No version: whoever loads a plain directory names it by the digest of what it finds.
            return types_pb2.ModelLocation(uri=str(Path(place).resolve()))
        raise RunError(f"model {model!r} has no version yet and the recipe names no directory for it")

    def _pinned(self, place: str) -> str:
        """A hub name with the commit that was served first: hf://gpt2@607a30d..., whatever is newest now."""
        commit = self.ledger.info()["data_sha256"].get(place)
        return f"{place.partition('@')[0]}@{commit}" if commit else place

    def _pin(self, model: str, served: types_pb2.ModelVersion) -> None:
        """Keeps which commit a hub name stood for, for every later load of the run."""
        place, known = self.recipe.models.get(model, ""), self.ledger.info()["data_sha256"]
        if place.startswith(HUB) and place not in known and COMMIT.fullmatch(served.model):
            self.ledger.set_run(data_sha256={**known, place: served.model})

    async def durable(
        self, stage: str, number: int, phase: str, produce: Callable[[], Awaitable[dict[str, Any]]]
    ) -> dict[str, Any]:
        """A phase's output: from the ledger when it is there, else produced and recorded.

        Between phases nothing is half done: here a run that is told to stop does so.
        """
        known = self.ledger.phase(stage, number, phase)
        if known is not None:
            return known
        self.may_stop(f"{stage} {number} {phase}")
        with self.time.phase(phase):
            output = await produce()
        return self.ledger.finish_phase(stage, number, phase, output)

    def mark(self, stage: str, number: int, phase: str, output: dict[str, Any], since: "Stopwatch") -> None:
        """Records a phase that overlaps with others, once; its seconds count from where `since` began."""
        if self.ledger.phase(stage, number, phase) is None:
            self.time.count(phase, since.start)
            self.ledger.finish_phase(stage, number, phase, output)

    def may_stop(self, before: str) -> None:
        """Raises Stopped where somebody asked the run to stop: only where all that is done is durable."""
        if self.mending.stopping.is_set():
            raise Stopped(f"stopped before {before}")

    async def ask(self, service: str, call: Callable[[], Awaitable[T]]) -> T:
        """What a call to a service gives; where the service fails under it, it is mended and asked again."""

        async def mend() -> None:
            for order in list(self.orders[service].values()):
                await order()

        return await self.mending.persist(service, call, mend)

    async def order(self, service: str, what: str, order: Callable[[], Awaitable[T]]) -> T:
        """Has a service do what every incarnation of it must: now, and whenever it has to be mended."""
        self.orders[service][what] = order
        return await self.mending.persist(service, order)

    async def serve_policy(self, model: str) -> types_pb2.ModelVersion:
        """Makes the policy service serve a model's newest version; returns which that is."""
        version = await self._serve("policy", "policy", model, self.peers.serve_policy)
        await self._follow()
        return version

    async def _follow(self) -> None:
        """Replicas that other services gained meanwhile load what theirs serve, before a round uses them."""
        for service, orders in list(self.orders.items()):
            if self.peers.moved(service):
                for order in list(orders.values()):
                    await self.mending.persist(service, order)

    async def serve_reference(self, model: str) -> types_pb2.ModelVersion:
        """Makes the reference service serve a model's newest version."""
        return await self._serve("reference", "reference", model, self.peers.serve_reference)

    async def serve_scorers(self, *scorers: str | None) -> None:
        """Makes the reward service serve the newest versions of learned scorers, also those that others are
        made of; rules need nothing."""
        hosted = self.recipe.services.reward
        for scorer in dict.fromkeys(scorers):
            if scorer in hosted.combined:
                await self.serve_scorers(*hosted.combined[scorer].parts)
                version = await self.ask("reward", partial(self.peers.scorer_version, scorer))
                if version.sha256:
                    self.scorers[scorer] = version
            elif scorer in hosted.learned:
                serve = partial(self.peers.serve_reward, scorer)
                self.scorers[scorer] = await self._serve("reward", scorer, scorer, serve)

    async def serve_judge(self, turn: int = 0) -> types_pb2.ModelVersion | None:
        """Makes the judge service judge by the model whose turn it is, newest version; None: an endpoint."""
        judges = self.recipe.services.judge.judges
        if judges:
            model = judges[turn % len(judges)]
            self.judge = await self._serve("judge", "judge", model, self.peers.serve_judge)
        return self.judge

    async def _serve(self, service: str, what: str, model: str, serve: Serve) -> types_pb2.ModelVersion:
        where = self.locate(model)

        async def order() -> types_pb2.ModelVersion:
            try:
                version = await serve(where, self._load_header(name_of(model, where)))
            except CallError as error:
                if error.reason == "weights_damaged":
                    await self._write_again(model, where.version.number)
                raise
            # A plain directory's version is known once it was loaded: a replica that has it keeps it.
            where.version.CopyFrom(version)
            self._pin(model, version)
            return version

        return await self.order(service, what, order)

    async def _write_again(self, model: str, number: int) -> None:
        """Has the trainer write a damaged version again, where it still stands at it."""
        if model not in self.writers:
            return
        try:
            await self.writers[model](number)
        except CallError as error:
            self.progress.note(f"{model}@{number} cannot be written again: {error}")
        else:
            self.progress.note(f"{model}@{number} was damaged on disk and is written again")

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
