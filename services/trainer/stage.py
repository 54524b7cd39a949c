"""What all stages share: models in training, a state that can be put back, a digest of the weights."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from services.models import LoadedCausal, LoadedScalar, save_causal
from services.progress import ProgressFeed
from services.trainer.device import Compute
from services.trainer.optimizers import Learner
from services.trainer.records import StagePlan, StepOutcome
from services.trainer.sharding import part, whole
from services.weights import ModelVersion


@dataclass(frozen=True)
class StageState:
    """All that tells one moment of a stage from another: tensors by name, and JSON for the rest."""

    tensors: Mapping[str, Tensor]
    scalars: dict[str, Any]
    whole: bool = True  # False: the tensors are this rank's parts

    def copied(self) -> StageState:
        """This rank's parts in main memory of their own, which the next step does not change."""
        return StageState(
            {n: part(t).to("cpu", copy=True) for n, t in self.tensors.items()}, self.scalars, False
        )


class Stage(ABC):
    """One stage. `learners` are the models that it trains, by name; the first is the one it publishes."""

    kind: str
    learners: dict[str, Learner]
    loaded: LoadedCausal | LoadedScalar

    def __init__(self, plan: StagePlan, version: ModelVersion, compute: Compute) -> None:
        self.plan, self.compute = plan, compute
        # The version that the published model last was: where it began, then each version published.
        self.version = version
        self.parent: ModelVersion | None = None  # of that version, once this stage has published it

    @abstractmethod
    def step(self, batch: Any, step: int, progress: ProgressFeed) -> StepOutcome:
        """Trains on a batch; `step` counts the steps before it. May leave a mess behind when it raises."""

    @property
    @abstractmethod
    def published(self) -> Any:
        """The transformers model that the stage publishes."""

    def write_model(self, directory: Path, weights: dict[str, Any] | None = None) -> None:
        """Writes the stage's model as a Hugging Face directory, with `weights` where the model is spread."""
        save_causal(self.published, self.loaded.tokenizer, directory, weights)

    def manifest_extra(self) -> dict[str, Any]:
        """What a published version's manifest says beside its files."""
        return {}

    def own_state(self) -> dict[str, Any]:
        """What is neither weights nor optimizer, as JSON."""
        return {}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Puts back what `own_state` gave."""
        assert not state

    def state(self) -> StageState:
        """The state now; its tensors are the live ones."""
        tensors = {
            f"{name}/{key}": tensor
            for name, learner in self.learners.items()
            for key, tensor in learner.tensors().items()
        }
        scalars = {
            "updates": {name: learner.updates for name, learner in self.learners.items()},
            "version": vars(self.version),
            "parent": vars(self.parent) if self.parent else None,
            "own": self.own_state(),
        }
        return StageState(tensors, scalars)

    def load_state(self, state: StageState) -> None:
        """Makes the stage what it was when `state` was taken, bit for bit."""
        for name, learner in self.learners.items():
            prefix = f"{name}/"
            own = {key.removeprefix(prefix): t for key, t in state.tensors.items() if key.startswith(prefix)}
            learner.load(own, state.scalars["updates"][name], whole=state.whole)
        self.version = ModelVersion(**state.scalars["version"])
        parent = state.scalars["parent"]
        self.parent = ModelVersion(**parent) if parent else None
        self.load_own_state(state.scalars["own"])

    def weights_sha256(self) -> str:
        """SHA-256 (hex) over name, type, shape and bytes of every trained tensor, in order of name."""
        digest, ranks = hashlib.sha256(), self.compute.ranks
        for name, tensor in sorted(self.state().tensors.items()):
            if "/weights/" not in name:
                continue
            tensor = whole(tensor)
            if ranks.leads:
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
                digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
        return ranks.sent(digest.hexdigest())


def shuffled(rows: int, seed: int, *place: int | str) -> list[int]:
    """Indices 0..rows-1 in an order drawn from seed and place alone: shuffled(3, 7, "sft") -> [2, 0, 1]."""
    words = "/".join(map(str, (seed, *place)))
    draw = int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big") >> 1
    return torch.randperm(rows, generator=torch.Generator().manual_seed(draw)).tolist()


def cut(order: list[int], size: int) -> list[list[int]]:
    """Minibatches of `size` rows, the last one shorter where it must be."""
    return [order[start : start + size] for start in range(0, len(order), size)]


def spread(order: list[int], count: int) -> list[list[int]]:
    """`count` minibatches as even as can be, or one for each row if there are fewer: 7 in 2 is 3, 4."""
    count = min(count, len(order))
    ends = [len(order) * number // count for number in range(count + 1)]
    return [order[start:end] for start, end in zip(ends, ends[1:], strict=False)]
