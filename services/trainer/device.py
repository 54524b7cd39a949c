"""Where and how the trainer computes: device, precision, threads, ranks."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import nn

from services.trainer.ranks import Ranks
from services.trainer.sharding import checkpoint_activations, shard

First = TypeVar("First")
Second = TypeVar("Second")

AUTO = "auto"


@dataclass(frozen=True)
class Compute:
    """The device and the threads of one trainer process."""

    device: torch.device
    threads: int = 1
    # Off only to show that it changes nothing but the time.
    side_by_side: bool = True
    ranks: Ranks = field(default_factory=Ranks)
    activation_checkpointing: bool = False

    @classmethod
    def chosen(
        cls, device: str, threads: int, ranks: Ranks | None = None, activation_checkpointing: bool = False
    ) -> Compute:
        """For "auto" the GPU where there is one; ValueError for a device that is not known or not there.

        With several ranks "cuda" is a GPU for each.
        """
        ranks = ranks or Ranks()
        if device == AUTO:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
            raise ValueError(f"must be auto, cpu, cuda or cuda:N, not {device!r}")
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"{device}: no GPU is available")
        if device.startswith("cuda") and ranks.size > 1:
            device = _gpu_of(device, ranks)
        return cls(torch.device(device), threads, True, ranks, activation_checkpointing)

    def precision(self) -> Any:
        """A context for forward passes: bf16 autocast on a GPU, float32 elsewhere. Weights stay float32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    @property
    def deterministic(self) -> bool:
        """True where the same steps give the same bits: on a GPU sums are taken in any order."""
        return self.device.type == "cpu"

    @property
    def two_halves(self) -> bool:
        """True where two Python threads with half of the cores each beat torch's own threads."""
        # Ranks have to exchange in one order, which two threads would not keep.
        return self.side_by_side and self.threads >= 2 and self.device.type == "cpu" and self.ranks.size == 1

    @property
    def keeps_graphs(self) -> bool:
        """True where a graph may wait for its backward pass behind others: FSDP2 does not promise it."""
        return self.ranks.size == 1

    @property
    def loading_device(self) -> torch.device:
        """Where models are loaded: with several ranks in main memory, as no GPU need hold one whole."""
        return self.device if self.ranks.size == 1 else torch.device("cpu")

    def shared(self, model: nn.Module) -> Compute:
        """For a stage whose halves share this model: one after the other where each pass changes it."""
        return replace(self, side_by_side=False) if passes_change(model) else self

    def prepare(self, model: nn.Module) -> None:
        """Makes a loaded model ready to train: activation checkpointing, then its parts to the ranks."""
        if self.activation_checkpointing:
            checkpoint_activations(model)
        if self.ranks.size > 1:
            shard(model, self.ranks)

    def use_all_threads(self) -> None:
        """Gives the calling thread every core; a torch setting that is each thread's own."""
        torch.set_num_threads(self.threads)

    def micro_batch_size(self, rows: int, limit: int) -> int:
        """Rows of one forward pass: as many as allowed, but so that there is work for each half and rank."""
        return min(limit, -(-rows // 2)) if self.two_halves else self.ranks_share(rows, limit)

    def ranks_share(self, rows: int, limit: int) -> int:
        """Rows of one forward pass: as many as allowed, but so that there is work for each rank."""
        return limit if self.ranks.size == 1 else min(limit, -(-rows // self.ranks.size))

    def both(self, first: Callable[[], First], second: Callable[[], Second]) -> tuple[First, Second]:
        """Runs two computations that share nothing, on a CPU side by side with half of the threads each.

        Torch lets go of the interpreter while it computes, so that two threads keep two cores busy, and two
        small matrices on a core each beat one after the other on both. The results are the same bits either
        way, since each half runs with the same number of threads. An error of one half is raised when both
        have ended.
        """
        if self.ranks.size > 1:
            self.use_all_threads()
            return first(), second()
        share = self._half
        if not self.two_halves:
            return share(first), share(second)
        with ThreadPoolExecutor(1, thread_name_prefix="second-half") as pool:
            other = pool.submit(share, second)
            mine = share(first)
            return mine, other.result()

    def _half(self, work: Callable[[], First]) -> First:
        torch.set_num_threads(max(1, self.threads // 2))
        return work()


def passes_change(model: nn.Module) -> bool:
    """True where a forward pass writes to the model, as rotary embeddings that follow a row's length do."""
    for module in model.modules():
        kind = getattr(module, "rope_type", None)
        kinds = kind.values() if isinstance(kind, dict) else (kind,)
        if any(each == "longrope" or "dynamic" in str(each) for each in kinds):
            return True
    return False


def _gpu_of(device: str, ranks: Ranks) -> str:
    """ "cuda:1" for the second rank of a machine; ValueError where there are fewer GPUs or one was named."""
    if device != "cuda":
        raise ValueError(f"{device}: with several ranks say cuda, which gives each its own")
    count = torch.cuda.device_count()
    if ranks.local_rank >= count:
        raise ValueError(f"cuda: {count} GPUs are too few for rank {ranks.rank} of {ranks.size}")
    torch.cuda.set_device(ranks.local_rank)
    return f"cuda:{ranks.local_rank}"
