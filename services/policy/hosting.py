"""The policy service's inside: one engine, chunks one after another, each of exactly one version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.fence import Fence
from services.model_edge import LogprobMetrics
from services.models import set_threads
from services.policy.door import AskedRow, PromptContent, PromptSamples, check_engine, rows_of, tokens_of
from services.policy.engine import Completion, Engine, LogprobKind, Sampling
from services.policy.engines import loader_of
from services.policy.metrics import PolicyMetrics
from services.policy.settings import PolicySettings
from services.server import Host
from services.serving_model import LoadMetrics, ServingModel
from services.weights import ModelVersion
from services.wire import require_version
from services.work import Timing


@dataclass(frozen=True)
class SampledChunk:
    """Completions in the order of their rows, and the one version that drew them all."""

    rows: list[AskedRow]
    completions: list[Completion]
    logprob_kind: LogprobKind
    version: ModelVersion


@dataclass(frozen=True)
class CountedPrompts:
    """Tokens of each prompt, and of prompt and response together at most."""

    tokens: list[int]
    context_length: int
    version: ModelVersion


class Policy:
    """What a policy replica holds: its engine, the worker that runs chunks, the fence before LoadWeights."""

    def __init__(self, host: Host, settings: PolicySettings) -> None:
        set_threads(settings.threads)
        self._settings = settings
        self.work, self.fence = host.work, Fence()
        self.logprob_metrics = LogprobMetrics(host.registry)
        self._metrics = PolicyMetrics(host.registry)
        # A round is sampled by one version: balancers skip a replica that missed it. Whoever asks this very
        # replica is answered by the version before.
        self.serving: ServingModel[Engine] = ServingModel(
            "policy",
            loader_of(settings),
            LoadMetrics(host.registry),
            on_loaded=lambda: host.set_ready(True),
            on_missed=lambda: host.set_ready(False),
        )

    async def start(self) -> None:
        """Loads and follows what the settings say."""
        await self.serving.start(self._settings.model, self._settings.follow)

    async def count_tokens(
        self, prompts: Sequence[PromptContent], expected: ModelVersion | None
    ) -> CountedPrompts:
        """How long prompts are as the served version reads them."""

        def count() -> CountedPrompts:
            served = self.serving.current()
            require_version(expected, served.version)
            return CountedPrompts(
                tokens_of(prompts, served.model), served.model.context_length, served.version
            )

        return (await self.work.run(count))[0]

    async def generate(
        self,
        prompts: Sequence[PromptSamples],
        sampling: Sampling,
        truncate: bool,
        expected: ModelVersion | None,
    ) -> tuple[SampledChunk, Timing]:
        """Samples one chunk. The version is looked at when the chunk's turn comes, not when it arrives."""

        def sample() -> SampledChunk:
            served = self.serving.current()
            require_version(expected, served.version)
            engine = served.model
            check_engine(sampling, engine.capabilities)
            asked = rows_of(prompts, sampling, truncate, engine)
            completions = engine.generate([each.row for each in asked], sampling)
            return SampledChunk(asked, completions, engine.logprob_kind(sampling), served.version)

        chunk, timing = await self.work.run(sample)
        prompt_tokens = sum(len(each.row.prompt_ids) for each in chunk.rows)
        self._metrics.observe(prompt_tokens, chunk.completions)
        return chunk, timing
