"""The reward service's inside: which scorers it hosts, how they come by their models, when it is ready.

Ready means that at least one scorer can answer: a run scores with its rules before it has a reward model. A
learned scorer without a model refuses its own calls ("not_loaded"), and a failed load takes nothing away.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from services.errors import FieldError, PreconditionError
from services.fence import Fence
from services.models import set_threads
from services.progress import ProgressFeed
from services.reward.learned import LearnedScorer, Loaded
from services.reward.metrics import RewardMetrics
from services.reward.rules import RuleScorer
from services.reward.scorers import Description, Exchange, Outcome, Scorer
from services.reward.settings import RewardSettings
from services.server import Host
from services.weights import ModelVersion, WeightsError, committed
from services.work import Timing, Work

log = logging.getLogger(__name__)

# How often a pointer is looked at, and how long a version that did not load is left alone.
FOLLOW_SECONDS = 2.0
RETRY_SECONDS = 30.0


class Rewards:
    """Scorers by name, and their models."""

    def __init__(self, host: Host, settings: RewardSettings) -> None:
        set_threads(settings.threads)
        self.settings, self.fence = settings, Fence()
        self._host = host
        self._rules = {name: RuleScorer(name, function) for name, function in settings.rules}
        followed = {name for name, _ in settings.follow}
        self._learned = {
            name: LearnedScorer(name, settings.batch_tokens, comes_by_itself=bool(path) or name in followed)
            for name, path in settings.learned
        }
        # Loads wait for each other and not for scores, nor scores for them.
        self._loading = Work(threads=1)
        self._metrics = RewardMetrics(host.registry)

    def descriptions(self) -> list[Description]:
        """All scorers, by name."""
        scorers: list[RuleScorer | LearnedScorer] = [*self._rules.values(), *self._learned.values()]
        return sorted((scorer.description for scorer in scorers), key=lambda description: description.name)

    async def score(
        self, name: str, exchanges: Sequence[Exchange], expected: ModelVersion | None
    ) -> tuple[Description, list[Outcome], Timing]:
        """What the scorer of that name says, and which version of it said so.

        Raises FieldError for an unknown name, NotReadyError or PreconditionError ("not_loaded") for a
        scorer without a model, PreconditionError("wrong_version") when it serves another than `expected`.
        """
        scorer = self._answering(name)
        description = scorer.description
        if expected is not None and description.version != expected:
            raise _wrong_version(description, expected)
        outcomes, timing = await self._host.work.run(scorer.score, exchanges)
        self._metrics.observe(description.name, outcomes)
        return description, outcomes, timing

    def _answering(self, name: str) -> Scorer:
        """The scorer as it is now: one version, whatever is loaded while it works."""
        name = _chosen(name, [*self._rules, *self._learned])
        return self._rules[name] if name in self._rules else self._learned[name].serving

    def learned_name(self, name: str) -> str:
        """The learned scorer that a name (or "" where there is only one) means. FieldError for any other."""
        return _chosen(name, list(self._learned))

    async def load_version(
        self, name: str, path: Path, version: ModelVersion | None, progress: ProgressFeed
    ) -> Loaded:
        """Verifies and swaps in a version of a learned scorer; WeightsError leaves the old one serving."""
        scorer = self._learned[name]
        return await self._load(name, lambda: scorer.load_version(path, version, progress.report))

    async def _load(self, name: str, load: Callable[[], Loaded]) -> Loaded:
        try:
            loaded, _ = await self._loading.run(load)
        except WeightsError as error:
            serving = self._learned[name].description.version
            log.error("load failed", extra={"scorer": name, "error": str(error), "serving": serving})
            raise
        self._metrics.serves(name, loaded.version)
        log.info("loaded", extra={"scorer": name, "version": str(loaded.version), "seconds": loaded.seconds})
        await self._host.set_ready(True)
        return loaded

    async def start(self) -> None:
        """Loads the directories that were named, then follows pointers for as long as the process lives."""
        await self._host.set_ready(bool(self._rules))
        for name, directory in self.settings.learned:
            if directory is not None:
                await self._load_directory(name, directory)
        await asyncio.gather(*(self._follow(name, models_dir) for name, models_dir in self.settings.follow))

    async def _load_directory(self, name: str, directory: Path) -> None:
        await self._load(name, lambda: self._learned[name].load_directory(directory))

    async def _follow(self, name: str, models_dir: Path) -> None:
        followed: ModelVersion | None = None
        while True:
            pause = FOLLOW_SECONDS
            try:
                followed = await self._catch_up(name, models_dir, followed)
            except (WeightsError, OSError) as error:
                fields = {"scorer": name, "models": str(models_dir), "error": str(error)}
                log.error("cannot follow", extra=fields)
                pause = RETRY_SECONDS
            await asyncio.sleep(pause)

    async def _catch_up(
        self, name: str, models_dir: Path, followed: ModelVersion | None
    ) -> ModelVersion | None:
        """Loads the committed version, once: LoadWeights may have gone elsewhere since."""
        found = await asyncio.to_thread(committed, models_dir, name)
        if found is None:
            return None
        version, path = found
        if version not in (followed, self._learned[name].description.version):
            await self.load_version(name, path, version, ProgressFeed())
        return version


def _chosen(name: str, hosted: list[str]) -> str:
    if not name and len(hosted) == 1:
        return hosted[0]
    if name not in hosted:
        raise FieldError("scorer", name, f"must be one of {', '.join(sorted(hosted)) or '(none is hosted)'}")
    return name


def _wrong_version(description: Description, expected: ModelVersion) -> PreconditionError:
    served = description.version
    serves = f"serves {served} ({served.sha256})" if served else "is a rule and has no versions"
    message = f"scorer {description.name!r} {serves}, not {expected} ({expected.sha256})"
    return PreconditionError("wrong_version", f"expected_version: {message}")
