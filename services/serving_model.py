"""The model that a replica serves: loaded beside the old one, verified, swapped in between pieces of work.

    serving = ServingModel("policy", load, LoadMetrics(host.registry), on_loaded=ready)
    await serving.load(path, expected)         # LoadWeights
    await serving.follow(models_dir, "policy") # or: whatever the committed pointer names, for ever
    served = serving.current()                 # taken once per chunk: a chunk is of exactly one version

A load that fails leaves the old version serving; `on_missed` hears of it, for a replica that must be out of
rotation until it has the version it was told to serve. `load(path, manifest)` makes the model; it runs on a
thread of its own, so that chunks go on meanwhile.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry

from services.errors import NotReadyError
from services.exported import exported
from services.hub import fetched
from services.progress import ProgressFeed
from services.weights import Manifest, ModelVersion, committed, identify

log = logging.getLogger(__name__)

Model = TypeVar("Model", covariant=True)

POLL_SECONDS = 0.5
LONGEST_POLL_SECONDS = 60.0


@dataclass(frozen=True)
class Served(Generic[Model]):
    """A model and the version that it is."""

    version: ModelVersion
    model: Model


@dataclass(frozen=True)
class LoadedVersion:
    """What a load came to: the version, bytes read and seconds taken (0 and 0 where it served already)."""

    version: ModelVersion
    bytes: int
    seconds: float


class LoadMetrics:
    """Metrics of every model of one process; the label tells them apart."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.version = exported("trueline_weights_version", registry)
        self.failures = exported("trueline_weights_load_failures_total", registry)
        self.seconds = exported("trueline_weights_load_seconds", registry)
        self.bytes = exported("trueline_weights_loaded_bytes_total", registry)


async def _nothing() -> None:
    return None


class ServingModel(Generic[Model]):
    """One model of a replica, at one version or none yet. `current` may be called from any thread."""

    def __init__(
        self,
        name: str,
        load: Callable[[Path, Manifest], Model],
        metrics: LoadMetrics,
        on_loaded: Callable[[], Awaitable[None]] = _nothing,
        on_missed: Callable[[], Awaitable[None]] = _nothing,
    ) -> None:
        self.name = name
        self.swaps = 0  # loads that changed what is served
        self._load, self._metrics, self._on_loaded = load, metrics, on_loaded
        self._on_missed = on_missed
        self._served: Served[Model] | None = None
        self._loading = asyncio.Lock()
        for each in (metrics.failures, metrics.bytes):
            each.labels(name)  # exported as 0 before the first

    @property
    def version(self) -> ModelVersion | None:
        """The version that is served; None before the first load."""
        served = self._served
        return served.version if served else None

    def current(self) -> Served[Model]:
        """What is served at this moment; NotReadyError before the first load."""
        served = self._served
        if served is None:
            raise NotReadyError(f"{self.name}: no version is loaded yet", reason="not_loaded")
        return served

    async def load(
        self, path: Path, expected: ModelVersion | None, progress: ProgressFeed | None = None
    ) -> LoadedVersion:
        """Serves the version in `path`; raises WeightsError, with the old version serving on.

        `expected` None takes whatever is there, a plain directory included.
        """
        async with self._loading:
            return await self._swap(path, expected, progress or ProgressFeed())

    async def _swap(self, path: Path, expected: ModelVersion | None, progress: ProgressFeed) -> LoadedVersion:
        if expected is not None and expected == self.version:
            await self._on_loaded()  # it may have missed another version meanwhile
            return LoadedVersion(expected, 0, 0.0)
        started = time.monotonic()
        try:
            progress.report("verifying")
            path = await asyncio.to_thread(fetched, path)
            manifest = await asyncio.to_thread(identify, path, expected)
            progress.report("loading")
            model = await asyncio.to_thread(self._load, path, manifest)
        except Exception:
            self._metrics.failures.labels(self.name).inc()
            await self._on_missed()
            raise
        self._served = Served(manifest.version, model)
        self.swaps += 1
        seconds = time.monotonic() - started
        self._metrics.version.labels(self.name).set(manifest.number)
        self._metrics.seconds.labels(self.name).observe(seconds)
        self._metrics.bytes.labels(self.name).inc(manifest.bytes)
        log.info("serving", extra={"model": self.name, "version": str(manifest.version), "seconds": seconds})
        await self._on_loaded()
        return LoadedVersion(manifest.version, manifest.bytes, seconds)

    async def start(self, plain: Path | None, followed: Path | None) -> None:
        """Loads what a process was told to: a directory, or MODELS_DIR/NAME, whose pointer it then follows.

        A directory that cannot be loaded is an error; with neither, LoadWeights is waited for.
        """
        if plain is not None:
            await self.load(plain, None)
        if followed is not None:
            await self.follow(followed.parent, followed.name)

    async def follow(self, models_dir: Path, model: str, poll_seconds: float = POLL_SECONDS) -> None:
        """Serves what the committed pointer names, at start and whenever it changes. Does not return.

        What LoadWeights loads stays until the pointer moves. A version that cannot be loaded is reported and
        tried again, ever more rarely.
        """
        seen: ModelVersion | None = None
        pause = poll_seconds
        while True:
            try:
                seen = await self._catch_up(models_dir, model, seen)
                pause = poll_seconds
            except Exception as error:  # whatever it is, the old version has to go on serving
                pause = min(2 * pause, LONGEST_POLL_SECONDS)
                still = self.version or "nothing"
                log.error(
                    "the committed version cannot be loaded",
                    extra={"model": self.name, "error": str(error), "serving": str(still), "again_in": pause},
                )
            await asyncio.sleep(pause)

    async def _catch_up(self, models_dir: Path, model: str, seen: ModelVersion | None) -> ModelVersion | None:
        """Loads the committed version when it is not the one last seen; gives the one now seen."""
        pointed = await asyncio.to_thread(committed, models_dir, model)
        if pointed is None or pointed[0] == seen:
            return seen
        async with self._loading:
            # Read again: while this waited for the lock, LoadWeights may have loaded a later version.
            again = await asyncio.to_thread(committed, models_dir, model)
            version, path = again or pointed
            await self._swap(path, version, ProgressFeed())
        return version
