"""The reference service's inside: a frozen model and the log-probs that it gives."""

from __future__ import annotations

from pathlib import Path

from services.fence import Fence
from services.model_edge import LogprobMetrics
from services.model_settings import ModelSettings
from services.models import LoadedCausal, load_causal, set_threads
from services.sequences import TokenRows, score_rows
from services.server import Host
from services.serving_model import LoadMetrics, ServingModel
from services.templates import tokenizer_sha256
from services.weights import Manifest


class FrozenModel:
    """A language model that nothing trains."""

    def __init__(self, loaded: LoadedCausal) -> None:
        self._model = loaded.model.requires_grad_(False)
        self._pad_id = loaded.pad_id
        # Once, and not on the event loop: the digest of a large vocabulary takes most of a second.
        self.tokenizer_sha256 = tokenizer_sha256(loaded.tokenizer)
        self.vocabulary_size, self.context_length = loaded.vocabulary_size, loaded.context_length

    def compute_logprobs(
        self, prompts: TokenRows, responses: TokenRows, temperature: float
    ) -> list[list[float]]:
        """Log-prob of each response id, in nats, under logits / temperature; rows of like length together."""
        return score_rows(self._model, prompts, responses, temperature, self._pad_id)


class Reference:
    """What a reference replica holds."""

    def __init__(self, host: Host, settings: ModelSettings) -> None:
        set_threads(settings.threads)
        self._settings = settings
        self.work, self.fence = host.work, Fence()
        self.logprob_metrics = LogprobMetrics(host.registry)
        self.serving: ServingModel[FrozenModel] = ServingModel(
            "reference", self._load, LoadMetrics(host.registry), on_loaded=lambda: host.set_ready(True)
        )

    def _load(self, path: Path, manifest: Manifest) -> FrozenModel:
        return FrozenModel(load_causal(path, device=self._settings.device))

    async def start(self) -> None:
        """Loads and follows what the settings say."""
        await self.serving.start(self._settings.model, self._settings.follow)
