"""Where and how the trainer computes: device, precision, threads."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

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

    @classmethod
    def chosen(cls, device: str, threads: int) -> Compute:
        """For "auto" the GPU where there is one; ValueError for a device that is not known or not there."""
        if device == AUTO:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
            raise ValueError(f"must be auto, cpu, cuda or cuda:N, not {device!r}")
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"{device}: no GPU is available")
        return cls(torch.device(device), threads)

    def precision(self) -> Any:
        """A context for forward passes: bf16 autocast on a GPU, float32 elsewhere. Weights stay float32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    @property
    def two_halves(self) -> bool:
        """True where two Python threads with half of the cores each beat torch's own threads."""
        return self.side_by_side and self.threads >= 2 and self.device.type == "cpu" and not is_distributed()

    def use_all_threads(self) -> None:
        """Gives the calling thread every core; a torch setting that is each thread's own."""
        torch.set_num_threads(self.threads)

    def micro_batch_size(self, rows: int, limit: int) -> int:
        """Rows of one forward pass: as many as allowed, but so that there is work for either half."""
        return min(limit, -(-rows // 2)) if self.two_halves else limit

    def both(self, first: Callable[[], First], second: Callable[[], Second]) -> tuple[First, Second]:
        """Runs two computations that share nothing, on a CPU side by side with half of the threads each.

        Torch lets go of the interpreter while it computes, so that two threads keep two cores busy, and two
        small matrices on a core each beat one after the other on both. The results are the same bits either
        way, since each half runs with the same number of threads. An error of one half is raised when both
        have ended.
        """
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


def is_distributed() -> bool:
    """True under torchrun, where all ranks have to call collectives in one order."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()
