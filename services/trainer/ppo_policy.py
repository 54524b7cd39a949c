"""The policy's half of a PPO round: old log-probs, then clipped updates. Knows nothing of the critic.

Shapes: B rollouts, R response tokens, b and r those of a micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor

from services.models import LoadedCausal
from services.progress import ProgressFeed
from services.sequences import response_logprobs
from services.trainer.device import Compute
from services.trainer.optimizers import Learner, check_loss
from services.trainer.ppo_loss import PolicyDiagnostics, policy_loss, token_mean
from services.trainer.rounds import MicroBatch, Minibatch, Round, Schedule
from services.trainer.settings import PpoSettings


@dataclass(frozen=True)
class Updates:
    """What a half's updates came to."""

    means: dict[str, float]
    gradient_norms: list[float]
    learning_rate: float


class PolicyHalf:
    """The policy in training."""

    def __init__(self, loaded: LoadedCausal, settings: PpoSettings, compute: Compute) -> None:
        self.loaded, self.settings, self.compute = loaded, settings, compute
        rounds = settings.total_rounds - settings.critic_warmup_rounds
        updates = max(1, rounds) * settings.epochs * settings.minibatches
        self.learner = Learner(loaded.model, settings.policy_optimizer, updates)
        self._first: tuple[Tensor, Tensor] | None = None

    def old_logprobs(self, batch: Round, schedule: Schedule, *, keep_first: bool) -> tuple[Tensor, Tensor]:
        """(logprobs_BR, entropy_BR) of the responses before any update, at the sampling temperature.

        With `keep_first` the graph of the first micro-batch is kept: its first update needs that very
        forward pass, which then is not made twice.
        """
        logprobs_BR, entropy_BR = batch.zeros(), batch.zeros()
        self._first = None
        for number, (chosen, counts) in enumerate(schedule.one_pass()):
            keeping = keep_first and number == 0 and self.compute.keeps_graphs
            with torch.set_grad_enabled(keeping):
                new_br, entropy_br = self._forward(batch, chosen, want_entropy=True)
            if keeping:
                self._first = new_br, entropy_br
            if counts:
                logprobs_BR[chosen, : new_br.shape[1]] = new_br.detach()
                entropy_BR[chosen, : new_br.shape[1]] = entropy_br.detach()
        return self.compute.ranks.summed(logprobs_BR), self.compute.ranks.summed(entropy_BR)

    def optimise(
        self,
        batch: Round,
        schedule: Schedule,
        old_logprobs_BR: Tensor,
        advantages_BR: Tensor,
        weights_BR: Tensor | None,
        progress: ProgressFeed,
    ) -> Updates:
        """All updates of the round."""
        norms, diagnostics = [], []
        given = (old_logprobs_BR, advantages_BR, weights_BR)
        for number, (name, minibatch) in enumerate(schedule.minibatches()):
            progress.report(name, number, schedule.updates)
            rate = self.learner.learning_rate
            diagnostics.append(self.accumulate(batch, minibatch, *given))
            norms.append(self.learner.update())
        return Updates(self.compute.ranks.summed_fields(reduce(add, diagnostics)).means(), norms, rate)

    def accumulate(
        self,
        batch: Round,
        minibatch: Minibatch,
        old_logprobs_BR: Tensor,
        advantages_BR: Tensor,
        weights_BR: Tensor | None,
    ) -> PolicyDiagnostics:
        """Adds the gradient of a minibatch's mean loss per token, micro-batch by micro-batch."""
        settings, tokens = self.settings, batch.tokens_in(minibatch)
        losses, sums = [], []
        for chosen, counts in self.compute.ranks.dealt(minibatch):
            new_br, entropy_br = self._taken_or_forward(batch, chosen)
            here = (chosen, slice(new_br.shape[1]))
            mask_br = batch.mask_BR[here]
            loss, diagnostics = policy_loss(
                new_br,
                old_logprobs_BR[here],
                advantages_BR[here],
                mask_br,
                settings.clip_range,
                settings.dual_clip,
                None if weights_BR is None else weights_BR[here],
                tokens,
            )
            if settings.entropy_coefficient:
                loss = loss - settings.entropy_coefficient * token_mean(entropy_br, mask_br, tokens)
            (loss * counts).backward()
            losses.append(loss.detach() * counts)
            sums.append(diagnostics.scaled(counts))
        check_loss("the policy's loss", losses, self.compute.ranks)
        return reduce(add, sums)

    def _taken_or_forward(self, batch: Round, chosen: MicroBatch) -> tuple[Tensor, Tensor]:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return self._forward(batch, chosen, want_entropy=self.settings.entropy_coefficient > 0)

    def _forward(self, batch: Round, chosen: MicroBatch, *, want_entropy: bool) -> tuple[Tensor, Tensor]:
        """(logprobs_br, entropy_br); without `want_entropy` the second is the first, unread."""
        with self.compute.precision():
            found = response_logprobs(
                self.loaded.model,
                *batch.rows_of(chosen),
                batch.temperature,
                self.loaded.pad_id,
                want_entropy=want_entropy,
            )
        return found[0], found[2] if want_entropy else found[0]

    def forget_kept(self) -> None:
        """Drops the kept graph, where the round does not go on to its updates."""
        self._first = None
