"""The reward service's inside: which scorers it hosts, how they come by their models, when it is ready.

Ready means that at least one scorer can answer: a run scores with its rules before it has a reward model. A
learned scorer without a model refuses its own calls ("not_loaded"), and a failed load takes nothing away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from services.errors import FieldError, PreconditionError
from services.fence import Fence
from services.models import load_scalar, set_threads
from services.reward.combined import CombinedScorer, combined_description
from services.reward.learned import LearnedScorer
from services.reward.metrics import RewardMetrics
from services.reward.rules import RuleScorer
from services.reward.scorers import Description, Exchange, Outcome, Scorer
from services.reward.settings import RewardSettings
from services.server import Host
from services.serving_model import LoadMetrics, ServingModel
from services.weights import Manifest, ModelVersion
from services.work import Timing

Answer = tuple[Description, list[Outcome]]


class Rewards:
    """Scorers by name, and their models."""

    def __init__(self, host: Host, settings: RewardSettings) -> None:
        set_threads(settings.threads)
        self.settings, self.fence = settings, Fence()
        self._host = host
        self._metrics, self._load_metrics = RewardMetrics(host.registry), LoadMetrics(host.registry)
        self._rules = {name: RuleScorer(name, function) for name, function in settings.rules}
        self._learned = {name: self._place(name) for name, _ in settings.learned}
        self._combined = dict(settings.combined)  # each after its parts

    def _place(self, name: str) -> ServingModel[LearnedScorer]:
        """Where the versions of a learned scorer follow each other."""

        def load(path: Path, manifest: Manifest) -> LearnedScorer:
            loaded = load_scalar(path, device=self.settings.device)
            return LearnedScorer(name, loaded, manifest, path, self.settings.batch_tokens)

        return ServingModel(name, load, self._load_metrics, on_loaded=lambda: self._host.set_ready(True))

    async def start(self) -> None:
        """Loads the directories that were named and follows pointers, for as long as the process lives."""
        await self._host.set_ready(bool(self._rules))
        followed = dict(self.settings.follow)
        starts = (
            self._learned[name].start(directory, followed.get(name))
            for name, directory in self.settings.learned
        )
        await asyncio.gather(*starts)

    def descriptions(self) -> list[Description]:
        """All scorers, by name."""
        learned = [
            place.current().model.description if place.version else Description(name)
            for name, place in self._learned.items()
        ]
        rules = [rule.description for rule in self._rules.values()]
        known = {description.name: description for description in (*learned, *rules)}
        for name, combination in self._combined.items():
            parts = [known[part] for part in combination.parts]
            known[name] = combined_description(name, combination, parts)
        return [known[name] for name in sorted(known)]

    async def score(
        self, name: str, exchanges: Sequence[Exchange], expected: ModelVersion | None
    ) -> tuple[Answer, Timing]:
        """What the scorer of that name says, and which version of it said so.

        Raises FieldError for an unknown name, NotReadyError or PreconditionError ("not_loaded") for a
        scorer without a model, PreconditionError("wrong_version") when it serves another than `expected`.
        """
        name = _chosen(name, [*self._rules, *self._learned, *self._combined])

        def answer() -> Answer:
            scorer = self._scorer(name)
            _require_version(scorer.description, expected)
            return scorer.description, scorer.score(exchanges)

        (description, outcomes), timing = await self._host.work.run(answer)
        self._metrics.observe(name, outcomes)
        return (description, outcomes), timing

    def _scorer(self, name: str) -> Scorer:
        """The scorer as it is now: one version, whatever is loaded while it works.

        Without a model it is NotReadyError where a retry will find one, since it is on its way, and
        PreconditionError where it takes a LoadWeights.
        """
        if name in self._rules:
            return self._rules[name]
        if name in self._combined:
            combination = self._combined[name]
            return CombinedScorer(name, combination, [self._scorer(part) for part in combination.parts])
        place, settings = self._learned[name], self.settings
        on_its_way = name in dict(settings.follow) or dict(settings.learned)[name] is not None
        if place.version is None and not on_its_way:
            raise PreconditionError("not_loaded", f"scorer {name!r} has no model; LoadWeights gives it one")
        return place.current().model

    def place(self, name: str) -> ServingModel[LearnedScorer]:
        """The learned scorer that a name (or "" where there is only one) means. FieldError for any other."""
        return self._learned[_chosen(name, list(self._learned))]


def _chosen(name: str, hosted: list[str]) -> str:
    if not name and len(hosted) == 1:
        return hosted[0]
    if name not in hosted:
        raise FieldError("scorer", name, f"must be one of {', '.join(sorted(hosted)) or '(none is hosted)'}")
    return name


def _require_version(description: Description, expected: ModelVersion | None) -> None:
    served = description.version
    if expected is None or served == expected:
        return
    unversioned = "is a rule and has no versions" if description.fixed else "has no version yet"
    serves = f"serves {served} ({served.sha256})" if served else unversioned
    message = f"scorer {description.name!r} {serves}, not {expected} ({expected.sha256})"
    raise PreconditionError("wrong_version", f"expected_version: {message}")
