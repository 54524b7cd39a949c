"""The work that both trainers do, and how each is told to do it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Workload:
    """PPO on the world of `benchmarks.world`: every rollout is `prompt_tokens` in, `response_tokens` out.

    One optimizer update per epoch: TRL accumulates over the whole batch whatever its number of minibatches.
    """

    hidden: int = 128
    intermediate: int = 384
    layers: int = 3
    heads: int = 4
    vocabulary: int = 1024  # with the other defaults: 0.9 million parameters
    prompt_tokens: int = 16
    response_tokens: int = 32
    batch: int = 64
    micro_batch: int = 64
    epochs: int = 4
    warmup: int = 2
    rounds: int = 8
    threads: int = 1
    seed: int = 0

    @property
    def rollouts(self) -> int:
        """Rollouts of the measured rounds."""
        return self.rounds * self.batch

    def world_flags(self) -> list[str]:
        """For `python -m benchmarks.world`: models, and prompts enough that none comes twice."""
        sizes = (
            "hidden",
            "intermediate",
            "layers",
            "heads",
            "vocabulary",
            "prompt_tokens",
            "response_tokens",
        )
        prompts = (self.warmup + self.rounds) * self.batch
        return [*self._flags(*sizes, "seed"), "--prompts", str(prompts)]

    def throughput_flags(self) -> list[str]:
        """For `python -m benchmarks.throughput`."""
        names = ("batch", "micro_batch", "epochs", "warmup", "rounds", "threads")
        return [*self.world_flags(), "--minibatches", "1", *self._flags(*names)]

    def flags(self) -> list[str]:
        """As a command line; `from_flags` reads it back."""
        return self._flags(*(f.name for f in fields(self)))

    @classmethod
    def from_flags(
        cls, parser: argparse.ArgumentParser, without: tuple[str, ...] = ()
    ) -> tuple[Workload, argparse.Namespace]:
        """Add the workload's flags, parse the command line, and return what else it said beside."""
        chosen = [f for f in fields(cls) if f.name not in without]
        for f in chosen:
            parser.add_argument(_flag(f.name), type=int, default=f.default, metavar="N")
        options = parser.parse_args()
        if options.batch % options.micro_batch:
            parser.error(f"--batch: {options.batch} is not a multiple of --micro-batch {options.micro_batch}")
        values: dict[str, Any] = {f.name: getattr(options, f.name) for f in chosen}
        return cls(**values), options

    def _flags(self, *names: str) -> list[str]:
        return [word for name in names for word in (_flag(name), str(getattr(self, name)))]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
