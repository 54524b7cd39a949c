"""The judge service's inside: the constitution in force, who reads it, when the service is ready.

A local judge is ready once a version is loaded; an endpoint's at once, since what an endpoint fails to answer
is an abstention of its item and not of the replica.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from services.errors import FieldError, PreconditionError
from services.fence import Fence
from services.judge.asking import Asking, Composed, Revisable
from services.judge.constitution import Constitution, ConstitutionError, read_constitution
from services.judge.endpoint import ChatDialect, EndpointJudge
from services.judge.metrics import JudgeMetrics
from services.judge.pace import Pace
from services.judge.principles import Selection
from services.judge.records import Answer, Backend, Identity, Question, Sampling, Usage, Written
from services.judge.settings import JudgeSettings
from services.judge.transport import Patience, Transport
from services.judge.verdicts import Exchange, Outcome, Pair, Rules
from services.server import Host
from services.serving_model import LoadMetrics, ServingModel
from services.weights import Manifest, ModelVersion
from services.wire import require_version
from services.work import Timing, Work

if TYPE_CHECKING:
    from services.judge.local import LocalModel

log = logging.getLogger(__name__)

# Of a call's remaining time: the last of it is for sending what was answered.
SHARE_OF_DEADLINE = 0.9


class LocalJudge:
    """A Backend (see records.py): one LocalModel, on the service's worker thread."""

    def __init__(self, model: LocalModel, work: Work) -> None:
        self.identity, self._model, self._work = model.identity, model, work

    async def choose(self, questions: Sequence[Question], until: float) -> tuple[list[Answer], Timing]:
        """One answer per question, in order. `until` is not read: model work is never cut off half way."""
        return await self._work.run(self._model.choose, questions)

    async def write(
        self, prompts: Sequence[str], sampling: Sampling, until: float
    ) -> tuple[list[Written], Timing]:
        """One text per prompt, in order."""
        return await self._work.run(self._model.write, prompts, sampling)


class Judge:
    """What a judge replica holds."""

    def __init__(self, host: Host, settings: JudgeSettings) -> None:
        self.settings, self.fence, self._host = settings, Fence(), host
        self._metrics = JudgeMetrics(host.registry)
        self._constitution = read_constitution(settings.constitution)
        self._metrics.constitution(self._constitution)
        self._serving: ServingModel[LocalModel] = ServingModel(
            "judge", self._load, LoadMetrics(host.registry), on_loaded=lambda: host.set_ready(True)
        )
        self._transport: Transport | None = None
        self._endpoint: EndpointJudge | None = None
        if settings.endpoint:
            self._transport = _transport(settings)
            dialect = ChatDialect(
                settings.endpoint_model, settings.logprobs, settings.top_logprobs, settings.token_limit_field
            )
            self._endpoint = EndpointJudge(settings.endpoint, dialect, self._transport, settings.max_waiting)

    def _load(self, path: Path, manifest: Manifest) -> LocalModel:
        # Here, since a judge that asks an endpoint needs no torch, nor the seconds and memory that it takes.
        from services.judge.local import LocalModel
        from services.models import load_causal, set_threads

        set_threads(self.settings.threads)
        loaded = load_causal(path, device=self.settings.device)
        return LocalModel(loaded, manifest, self.settings.batch_rows, self.settings.batch_tokens)

    async def start(self) -> None:
        """Loads and follows what the settings say, or stands ready for an endpoint until the process ends."""
        if self._transport is None:
            return await self._serving.start(self.settings.model, self.settings.follow)
        await self._host.set_ready(True)
        try:
            await asyncio.Event().wait()
        finally:
            await self._transport.close()

    @property
    def constitution(self) -> Constitution:
        """The one in force."""
        return self._constitution

    @property
    def identity(self) -> Identity:
        """Who judges; nobody yet while no local model is loaded."""
        if self._endpoint is None and self._serving.version is None:
            return Identity("")
        return self._backend().identity

    def place(self) -> ServingModel[LocalModel]:
        """Where the versions of the local model follow each other."""
        if self._endpoint is not None:
            raise PreconditionError(
                "no_local_model", "this judge asks an endpoint; there are no weights to load"
            )
        return self._serving

    def _backend(self) -> Backend:
        return self._endpoint or LocalJudge(self._serving.current().model, self._host.work)

    def asking(
        self, constitution_sha256: str, version: ModelVersion | None, remaining: float | None
    ) -> Asking:
        """What one call goes by. Raises PreconditionError where the caller expects something else.

        `remaining` is the seconds of the call's own deadline; None has the settings' deadlines alone.
        """
        if constitution_sha256 and constitution_sha256 != self._constitution.sha256:
            message = f"{self._constitution.sha256} is in force, not {constitution_sha256}"
            raise PreconditionError("wrong_constitution", f"expected_constitution_sha256: {message}")
        backend = self._backend()
        if version is not None and backend.identity.version is None:
            raise PreconditionError("wrong_version", "expected_version: an endpoint has no versions of ours")
        if backend.identity.version is not None:
            require_version(version, backend.identity.version)
        seconds = float("inf") if remaining is None else SHARE_OF_DEADLINE * remaining
        return Asking(self._constitution, backend, asyncio.get_running_loop().time() + seconds)

    async def compare(
        self, asking: Asking, pairs: Sequence[Pair], selection: Selection, rules: Rules, sampling: Sampling
    ) -> tuple[list[Outcome], Timing]:
        """A verdict per pair."""
        outcomes, timing = await asking.compare(pairs, selection, rules, sampling)
        self._metrics.compared(outcomes)
        return outcomes, timing

    async def score(
        self, asking: Asking, exchanges: Sequence[Exchange], selection: Selection, min_option_mass: float
    ) -> tuple[list[Outcome], Timing]:
        """A score per response."""
        outcomes, timing = await asking.score(exchanges, selection, min_option_mass)
        self._metrics.scored(outcomes)
        return outcomes, timing

    async def critique(
        self, asking: Asking, exchanges: Sequence[Exchange], selection: Selection, sampling: Sampling
    ) -> tuple[list[Composed], Timing]:
        """A critique per response."""
        composed, timing = await asking.critique(exchanges, selection, sampling)
        self._count_texts("critique", composed)
        return composed, timing

    async def revise(
        self, asking: Asking, items: Sequence[Revisable], selection: Selection, sampling: Sampling
    ) -> tuple[list[Composed], Timing]:
        """A revision per response."""
        composed, timing = await asking.revise(items, selection, sampling)
        self._count_texts("revise", composed)
        return composed, timing

    def _count_texts(self, method: str, composed: Sequence[Composed]) -> None:
        usage = sum((each.written.usage for each in composed), Usage())
        self._metrics.written(method, [each.written.text for each in composed], usage)

    async def reload(self) -> tuple[Constitution, bool]:
        """Puts the file's content in force, and says whether it is another. A bad file changes nothing."""
        path = self.settings.constitution
        try:
            read = await asyncio.to_thread(read_constitution, path)
        except ConstitutionError as error:
            self._metrics.reloaded("refused")
            still = f"{error}; still in force: {self._constitution.sha256}"
            raise FieldError("constitution", str(path), still) from None
        changed = read.sha256 != self._constitution.sha256
        self._constitution = read
        self._metrics.constitution(read)
        self._metrics.reloaded("changed" if changed else "unchanged")
        log.info("constitution", extra={"sha256": read.sha256, "changed": changed})
        return read, changed


def _transport(settings: JudgeSettings) -> Transport:
    pace = Pace(settings.requests_at_once, settings.requests_per_minute)
    patience = Patience(
        settings.attempts, settings.attempt_seconds, settings.question_seconds, settings.longest_pause
    )
    return Transport(settings.endpoint, settings.api_key(), settings.endpoint_proxy, pace, patience)
