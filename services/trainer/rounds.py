"""One round's rollouts as tensors, and the order in which they train.

Shapes: B rollouts, R tokens of the longest response. Everything per token is 0 where the mask is False.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from services.sequences import micro_batches
from services.trainer.batches import padded_numbers
from services.trainer.ranks import Ranks
from services.trainer.records import ScoredRollout
from services.trainer.stage import shuffled, spread

MicroBatch = list[int]
Minibatch = list[MicroBatch]


@dataclass(frozen=True)
class Round:
    """The rollouts that train."""

    prompts: list[list[int]]
    responses: list[list[int]]
    mask_BR: Tensor
    sampler_logprobs_BR: Tensor
    reference_logprobs_BR: Tensor
    scores_B: Tensor
    raw_scores_B: Tensor
    ended_B: Tensor
    eos_B: Tensor  # ended by an end-of-text token, not by a stop text
    temperature: float

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def tokens(self) -> int:
        """Prompt and response tokens of all rollouts."""
        return sum(map(len, self.prompts)) + sum(map(len, self.responses))

    def rows_of(self, chosen: Sequence[int]) -> tuple[list[list[int]], list[list[int]]]:
        """(prompts, responses) of some rollouts."""
        return [self.prompts[i] for i in chosen], [self.responses[i] for i in chosen]

    def tokens_in(self, minibatch: Minibatch) -> int:
        """Response tokens of a minibatch: what the losses of its micro-batches are divided by."""
        return sum(len(self.responses[i]) for chosen in minibatch for i in chosen)

    def zeros(self) -> Tensor:
        """zeros_BR, to be filled in by micro-batches."""
        return torch.zeros(self.mask_BR.shape, device=self.mask_BR.device)


def round_of(rollouts: Sequence[ScoredRollout], device: torch.device) -> Round:
    """The tensors of the rollouts that passed the door."""
    width = max(len(each.response_ids) for each in rollouts)
    lengths_B = torch.tensor([len(each.response_ids) for each in rollouts], device=device)

    def floats(numbers: list[float]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.float32, device=device)

    return Round(
        prompts=[each.prompt_ids for each in rollouts],
        responses=[each.response_ids for each in rollouts],
        mask_BR=torch.arange(width, device=device) < lengths_B[:, None],
        sampler_logprobs_BR=padded_numbers([each.policy_logprobs for each in rollouts], width, device),
        reference_logprobs_BR=padded_numbers([each.reference_logprobs for each in rollouts], width, device),
        scores_B=floats([each.score for each in rollouts]),
        raw_scores_B=floats([each.raw_score for each in rollouts]),
        ended_B=torch.tensor([each.ended for each in rollouts], device=device),
        eos_B=torch.tensor([each.finish_reason == "end_of_text" for each in rollouts], device=device),
        temperature=rollouts[0].temperature,
    )


@dataclass(frozen=True)
class Targets:
    """What the updates of a round aim at."""

    token_rewards_BR: Tensor  # score and KL, before any whitening
    advantages_BR: Tensor
    returns_BR: Tensor


@dataclass(frozen=True)
class Schedule:
    """Which rollouts train when: epochs of minibatches of micro-batches of row indices."""

    epochs: list[list[Minibatch]]
    ranks: Ranks = field(default_factory=Ranks)

    @property
    def updates(self) -> int:
        """Optimizer updates in all."""
        return sum(map(len, self.epochs))

    def one_pass(self) -> Iterator[tuple[MicroBatch, bool]]:
        """Every rollout once, in the micro-batches of the first epoch: this rank's, with whether each counts.

        Old log-probs and values are computed in these, so that on the first minibatch the ratio is exactly
        1: a row's last bit may depend on the rows that share its forward pass.
        """
        for minibatch in self.epochs[0]:
            yield from self.ranks.dealt(minibatch)

    def minibatches(self) -> Iterator[tuple[str, Minibatch]]:
        """Each minibatch with what it is called: ("epoch 2 of 4", [[5, 0], [3, 1]])."""
        for number, epoch in enumerate(self.epochs, start=1):
            for minibatch in epoch:
                yield f"epoch {number} of {len(self.epochs)}", minibatch


def schedule_of(
    batch: Round,
    epochs: int,
    minibatch_count: int,
    micro_batch_size: int,
    seed: int,
    step: int,
    ranks: Ranks | None = None,
) -> Schedule:
    """A schedule drawn from seed and step; inside a minibatch rows of like length share a micro-batch.

    With several ranks a minibatch has work for each of them where it has as many rows.
    """
    ranks = ranks or Ranks()
    lengths = [len(p) + len(r) for p, r in zip(batch.prompts, batch.responses, strict=True)]

    def minibatch(rows: list[int]) -> Minibatch:
        size = min(micro_batch_size, -(-len(rows) // ranks.size))
        groups = micro_batches([lengths[i] for i in rows], rows=size)
        return [[rows[i] for i in group] for group in groups]

    orders = [shuffled(len(batch), seed, "ppo", step, epoch) for epoch in range(epochs)]
    return Schedule([[minibatch(rows) for rows in spread(order, minibatch_count)] for order in orders], ranks)
