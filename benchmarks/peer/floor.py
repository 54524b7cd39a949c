"""The floor under a workload: the bare forward and backward passes that any PPO trainer has to do.

    python -m benchmarks.peer.floor --world DIR --threads 2

No sampling, no loss but a mean, no optimizer, no process beside. Passes that do not need each other run at
the same time on as many cores as there are threads, each on one: parts of the batch in generation,
reference, reward and critic in scoring, policy and critic in the epochs. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, DynamicCache

from benchmarks.peer.workload import Workload

Job = Callable[[], object]


class Passes:
    """The passes of one round over random token ids."""

    def __init__(self, workload: Workload, world: Path) -> None:
        self.workload = workload
        self.policy: Any = AutoModelForCausalLM.from_pretrained(world / "model")
        self.critic: Any = AutoModelForSequenceClassification.from_pretrained(world / "reward")
        shape = (workload.batch, workload.prompt_tokens + workload.response_tokens)
        self.ids_BT = torch.randint(3, workload.vocabulary, shape)

    def phases(self) -> Iterator[tuple[str, Sequence[Job]]]:
        """Phases in order, each with the jobs that may run at once."""
        parts = self.ids_BT.chunk(self.workload.threads)
        yield "generation", [partial(self.generate, part) for part in parts]
        # The reference and the reward model have the policy's and the critic's shape, so theirs stand in.
        forwards: list[Job] = [self.policy_forward, self.critic_forward, self.critic_forward]
        yield "scoring", [torch.no_grad()(forward) for forward in forwards]
        yield "optimisation", [self.policy_epochs, self.critic_epochs]

    @torch.no_grad()
    def generate(self, ids_BT: Tensor) -> None:
        """One forward pass per token with a key-value cache."""
        cache = DynamicCache()
        start = self.workload.prompt_tokens
        ends = range(start, start + self.workload.response_tokens)
        for begin, end in zip([0, *ends], ends, strict=False):
            self.policy(ids_BT[:, begin:end], past_key_values=cache, use_cache=True, logits_to_keep=1)

    def policy_forward(self, rows: slice = slice(None)) -> Tensor:
        """Mean log-prob of the responses."""
        ids_BT = self.ids_BT[rows]
        keep = self.workload.response_tokens
        logits_BTV = self.policy(ids_BT[:, :-1], use_cache=False, logits_to_keep=keep).logits
        targets_BT = ids_BT[:, -keep:]
        return logits_BTV.log_softmax(-1).gather(-1, targets_BT[..., None]).mean()

    def critic_forward(self, rows: slice = slice(None)) -> Tensor:
        """Mean squared value at the responses."""
        hidden_BTD = self.critic.model(self.ids_BT[rows, :-1], use_cache=False).last_hidden_state
        return self.critic.score(hidden_BTD[:, -self.workload.response_tokens :]).square().mean()

    def policy_epochs(self) -> None:
        self._epochs(self.policy_forward)

    def critic_epochs(self) -> None:
        self._epochs(self.critic_forward)

    def _epochs(self, forward: Callable[[slice], Tensor]) -> None:
        for _ in range(self.workload.epochs):
            for start in range(0, self.workload.batch, self.workload.micro_batch):
                forward(slice(start, start + self.workload.micro_batch)).backward()


def measure(workload: Workload, world: Path) -> dict[str, Any]:
    """The fastest of the workload's rounds, phase by phase: what else runs can only slow a pass."""
    torch.set_num_threads(1)
    torch.manual_seed(workload.seed)
    passes = Passes(workload, world)
    best: dict[str, float] = {}
    with ThreadPoolExecutor(workload.threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for _ in range(workload.warmup + workload.rounds):
            for name, jobs in passes.phases():
                began = time.perf_counter()
                for running in [pool.submit(job) for job in jobs]:
                    running.result()
                best[name] = min(best.get(name, float("inf")), time.perf_counter() - began)
    return {"rollouts_per_second": workload.batch / sum(best.values()), "phase_seconds": best}


def main() -> None:
    parser = argparse.ArgumentParser(description="The bare passes that a workload needs, timed.")
    parser.add_argument("--world", type=Path, required=True, help="what benchmarks.world wrote")
    workload, options = Workload.from_flags(parser)
    print(json.dumps(measure(workload, options.world)))


if __name__ == "__main__":
    main()
