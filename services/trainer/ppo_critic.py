"""The critic's half of a PPO round: old values, then clipped updates. Knows nothing of the policy.

Shapes: B rollouts, R response tokens, b and r those of a micro-batch.
"""

from __future__ import annotations

from functools import reduce
from operator import add

import torch
from torch import Tensor

from services.models import LoadedScalar
from services.trainer.batches import response_values
from services.trainer.device import Compute
from services.trainer.optimizers import Learner, check_loss
from services.trainer.ppo_loss import ValueDiagnostics, value_loss
from services.trainer.ppo_policy import Updates
from services.trainer.rounds import MicroBatch, Minibatch, Round, Schedule
from services.trainer.settings import PpoSettings


class CriticHalf:
    """The critic in training."""

    def __init__(self, loaded: LoadedScalar, settings: PpoSettings, compute: Compute) -> None:
        self.loaded, self.settings, self.compute = loaded, settings, compute
        updates = settings.total_rounds * settings.epochs * settings.minibatches
        self.learner = Learner(loaded.model, settings.critic_optimizer, updates)
        self._first: Tensor | None = None

    def old_values(self, batch: Round, schedule: Schedule) -> Tensor:
        """values_BR before any update; keeps the graph of the first micro-batch for its first update."""
        values_BR = batch.zeros()
        self._first = None
        for number, (chosen, counts) in enumerate(schedule.one_pass()):
            keeping = number == 0 and self.compute.keeps_graphs
            with torch.set_grad_enabled(keeping):
                values_br = self._forward(batch, chosen)
            if keeping:
                self._first = values_br
            if counts:
                values_BR[chosen, : values_br.shape[1]] = values_br.detach()
        return self.compute.ranks.summed(values_BR)

    def optimise(
        self, batch: Round, schedule: Schedule, old_values_BR: Tensor, returns_BR: Tensor
    ) -> Updates:
        """All updates of the round."""
        norms, diagnostics = [], []
        for _, minibatch in schedule.minibatches():
            rate = self.learner.learning_rate
            diagnostics.append(self.accumulate(batch, minibatch, old_values_BR, returns_BR))
            norms.append(self.learner.update())
        return Updates(self.compute.ranks.summed_fields(reduce(add, diagnostics)).means(), norms, rate)

    def accumulate(
        self, batch: Round, minibatch: Minibatch, old_values_BR: Tensor, returns_BR: Tensor
    ) -> ValueDiagnostics:
        """Adds the gradient of a minibatch's mean loss per token, micro-batch by micro-batch."""
        settings, tokens = self.settings, batch.tokens_in(minibatch)
        losses, sums = [], []
        for chosen, counts in self.compute.ranks.dealt(minibatch):
            values_br, self._first = self._first, None
            if values_br is None:
                values_br = self._forward(batch, chosen)
            here = (chosen, slice(values_br.shape[1]))
            loss, diagnostics = value_loss(
                values_br,
                old_values_BR[here],
                returns_BR[here],
                batch.mask_BR[here],
                settings.value_clip_range,
                tokens,
            )
            (settings.value_coefficient * loss * counts).backward()
            losses.append(loss.detach() * counts)
            sums.append(diagnostics.scaled(counts))
        check_loss("the critic's loss", losses, self.compute.ranks)
        return reduce(add, sums)

    def _forward(self, batch: Round, chosen: MicroBatch) -> Tensor:
        with self.compute.precision():
            values_br, _ = response_values(self.loaded.model, *batch.rows_of(chosen), self.loaded.pad_id)
        return values_br

    def forget_kept(self) -> None:
        """Drops the kept graph, where the round does not go on to its updates."""
        self._first = None
