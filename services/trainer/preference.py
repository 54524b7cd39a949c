"""Preference learning: a policy learns from pairs directly, by any loss of preference_losses.py.

    pairs ─► door ─► reference log-probs ─► epochs of minibatches: log-probs ─► loss ─► update

Shapes: P pairs, B = 2P responses, R response tokens. Sources: those of the losses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from services.errors import PreconditionError
from services.models import LoadedCausal
from services.progress import ProgressFeed
from services.sequences import micro_batches
from services.trainer import preference_metrics
from services.trainer.device import Compute
from services.trainer.loading import check_max_tokens
from services.trainer.metrics import mean, measured
from services.trainer.optimizers import Learner, NonFiniteError
from services.trainer.preference_door import PreferenceDoor, masked_ids
from services.trainer.preference_losses import Pairs, implicit_rewards, kto_baseline, preference_loss
from services.trainer.preference_metrics import Measured
from services.trainer.preference_passes import (
    Frozen,
    Passes,
    PreparedPairs,
    masked_sums,
    partners_of,
    prepare,
)
from services.trainer.preference_records import PreferencePair, TrainingPair
from services.trainer.preference_settings import PreferenceSettings
from services.trainer.records import Excluded, StagePlan, StepOutcome
from services.trainer.rounds import MicroBatch, Minibatch, Schedule
from services.trainer.stage import Stage, cut, shuffled
from services.weights import ModelVersion


class PreferenceStage(Stage):
    """A policy, trained on pairs; `frozen` is its reference where the trainer holds one."""

    kind = "preference"
    loaded: LoadedCausal

    def __init__(
        self,
        plan: StagePlan,
        settings: PreferenceSettings,
        loaded: LoadedCausal,
        version: ModelVersion,
        compute: Compute,
        frozen: Frozen | None = None,
    ) -> None:
        super().__init__(plan, version, compute)
        check_max_tokens("preference.max_tokens", settings.max_tokens, loaded.context_length)
        self.settings, self.loaded, self.frozen = settings, loaded, frozen
        self.loss, self.coefficients = settings.loss_row, settings.coefficients
        self.passes = Passes(compute, settings.temperature)
        self.masked = masked_ids(loaded.tokenizer, settings.masked_tokens, "preference.masked_tokens")
        self.learner = Learner(loaded.model, settings.optimizer, settings.total_updates)
        self.learners = {"policy": self.learner}

    @property
    def published(self) -> Any:
        """The language model."""
        return self.loaded.model

    def own_state(self) -> dict[str, Any]:
        """Which reference it learned against."""
        return {"reference": vars(self.frozen.version)} if self.frozen else {}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Raises PreconditionError for a state that was learned against another reference."""
        if state != self.own_state():
            message = "the checkpoint was learned against another reference than the stage began with"
            raise PreconditionError("other_reference", message)

    def step(self, batch: Sequence[PreferencePair], step: int, progress: ProgressFeed) -> StepOutcome:
        """All passes over the pairs, each in an order drawn from seed and step; none where none can train."""
        self.compute.use_all_threads()
        pairs, excluded = self._admit(batch, progress)
        if not pairs:
            return self._outcome(True, Measured(), [], excluded, {"updates": 0})
        schedule = self._schedule(pairs, step)
        first_pass = [part for minibatch in schedule.epochs[0] for part in minibatch]
        prepared = self._prepare(pairs, first_pass, progress)
        sums, norms = Measured(), []
        for number, (name, minibatch) in enumerate(schedule.minibatches()):
            progress.report(name, number, schedule.updates)
            rate = self.learner.learning_rate
            sums.add(self.accumulate(prepared, minibatch))
            norms.append(self.learner.update())
        training = {"updates": len(norms), "gradient_norm": mean(norms), "learning_rate": rate}
        return self._outcome(True, sums, pairs, excluded, training)

    def evaluate(self, batch: Sequence[PreferencePair], progress: ProgressFeed) -> StepOutcome:
        """The metrics alone: nothing is trained. Of pairs none of which can be measured the counts alone."""
        self.compute.use_all_threads()
        pairs, excluded = self._admit(batch, progress)
        if not pairs or (self.loss.mismatched and None in partners_of(pairs, self.loaded.context_length)):
            return self._outcome(False, Measured(), [], excluded, {})
        minibatch = self._micro_batches(pairs, list(range(len(pairs))))
        prepared = self._prepare(pairs, minibatch, progress)
        baseline = self._baseline(prepared, minibatch)

        @torch.no_grad()
        def measure(chosen: MicroBatch) -> Measured:
            return self._loss_sum(prepared, chosen, baseline)[1]

        progress.report("measuring", 0, len(minibatch))
        sums = Measured()
        for part in self.passes.each(measure, minibatch):
            sums.add(part)
        return self._outcome(False, sums, pairs, excluded, {})

    def accumulate(self, prepared: PreparedPairs, minibatch: Minibatch) -> Measured:
        """Adds the gradient of the minibatch's weighted mean loss per pair, micro-batch by micro-batch.

        Every micro-batch is divided by the weight of the WHOLE minibatch, so that their gradients add up to
        its gradient.
        """
        weight, baseline = prepared.weight_of(minibatch), self._baseline(prepared, minibatch)
        parts: dict[int, Measured] = {}

        def loss_of(part: tuple[int, MicroBatch], counts: bool) -> Tensor:
            number, chosen = part
            loss, found = self._loss_sum(prepared, chosen, baseline)
            if not counts:
                return 0 * loss
            parts[number] = found
            return loss / weight

        dealt = self.compute.ranks.dealt(list(enumerate(minibatch)))
        self.learner.accumulate(self.compute, [partial(loss_of, *each) for each in dealt])
        sums = Measured()
        for part in self.compute.ranks.merged(parts).values():
            sums.add(part)
        if not math.isfinite(sums.loss):
            raise NonFiniteError("the loss", sums.loss)
        return sums

    def _loss_sum(
        self, prepared: PreparedPairs, chosen: MicroBatch, baseline: Tensor | float
    ) -> tuple[Tensor, Measured]:
        """The pairs' losses times their weights, summed, from one forward pass over both their responses."""
        rows = prepared.rows(chosen)
        logprobs_BR = self.passes.logprobs(self.loaded, rows)
        references = [prepared.references[i] for i in chosen] if prepared.references else []
        numbers = [one for one, _ in references] + [other for _, other in references]
        masked = masked_sums(logprobs_BR, numbers, rows)
        pairs = _pairs_of([prepared.pairs[i] for i in chosen], *masked, baseline)
        weights = [prepared.pairs[i].weight for i in chosen]
        loss_P = preference_loss(self.loss, pairs, self.coefficients)
        loss = (loss_P * loss_P.new_tensor(weights)).sum()
        with torch.no_grad():
            rewards = implicit_rewards(self.loss, pairs, self.coefficients.beta)
            found = preference_metrics.measure(pairs, loss, sum(weights), rewards, masked)
        return loss, found

    def _baseline(self, prepared: PreparedPairs, minibatch: Minibatch) -> Tensor | float:
        """KTO's baseline over the whole minibatch; 0 for the other losses."""
        if not self.loss.mismatched:
            return 0.0

        @torch.no_grad()
        def log_ratios(chosen: MicroBatch) -> list[float]:
            rows = prepared.mismatched_rows(chosen)
            mismatched = [prepared.mismatched[i] for i in chosen]
            numbers = [one for one, _ in mismatched] + [other for _, other in mismatched]
            logprobs_BR = self.passes.logprobs(self.loaded, rows)
            policy_BR, reference_BR, _ = masked_sums(logprobs_BR, numbers, rows)
            return (policy_BR - reference_BR).sum(-1).tolist()

        found = [ratio for ratios in self.passes.each(log_ratios, minibatch) for ratio in ratios]
        return kto_baseline(torch.tensor(found, dtype=torch.float64, device=self.compute.device))

    def _admit(
        self, batch: Sequence[PreferencePair], progress: ProgressFeed
    ) -> tuple[list[TrainingPair], list[Excluded]]:
        progress.report("reading the batch", 0, len(batch))
        return self.door().admit(batch)

    def door(self) -> PreferenceDoor:
        """What pairs have to fit."""
        reference = self.frozen.version if self.frozen else None
        size = self.loaded.vocabulary_size
        return PreferenceDoor(self.settings, self.loaded.tokenizer, size, self.masked, reference)

    def _prepare(
        self, pairs: list[TrainingPair], parts: list[MicroBatch], progress: ProgressFeed
    ) -> PreparedPairs:
        progress.report("reference log-probs", 0, len(parts))
        return prepare(
            pairs,
            parts,
            self.passes,
            self.frozen,
            compares=self.loss.reference,
            mismatches=self.loss.mismatched,
            context_length=self.loaded.context_length,
        )

    def _schedule(self, pairs: Sequence[TrainingPair], step: int) -> Schedule:
        settings = self.settings
        orders = [
            shuffled(len(pairs), self.plan.seed, "preference", step, epoch)
            for epoch in range(settings.epochs)
        ]
        return Schedule(
            [
                [self._micro_batches(pairs, rows) for rows in cut(order, settings.minibatch_size)]
                for order in orders
            ]
        )

    def _micro_batches(self, pairs: Sequence[TrainingPair], rows: list[int]) -> Minibatch:
        """Pairs of like length together; a pair is two sequences of one forward pass."""
        sequences = self.compute.micro_batch_size(2 * len(rows), self.settings.micro_batch_size)
        groups = micro_batches([pairs[i].longest for i in rows], rows=max(1, sequences // 2))
        return [[rows[i] for i in group] for group in groups]

    def _outcome(
        self,
        trained: bool,
        sums: Measured,
        pairs: Sequence[TrainingPair],
        excluded: list[Excluded],
        training: dict[str, float | None],
    ) -> StepOutcome:
        found: dict[str, float | None] = {"comparisons": 0}
        if sums.pairs:
            found = sums.numbers(compares=self.loss.reference, mismatches=self.loss.mismatched)
        counts = {
            "rows": len(pairs),
            "excluded": len(excluded),
            "tokens": sum(pair.tokens for pair in pairs),
        }
        return StepOutcome(trained, measured({**found, **counts, **training}), excluded)


def _pairs_of(
    pairs: Sequence[TrainingPair],
    policy_BR: Tensor,
    reference_BR: Tensor,
    bears_BR: Tensor,
    baseline: Tensor | float,
) -> Pairs:
    """What the losses see, in float64, from the masked log-probs of both sides."""

    def sides(values_B: Tensor) -> tuple[Tensor, Tensor]:
        return values_B[: len(pairs)], values_B[len(pairs) :]

    return Pairs(
        *sides(policy_BR.sum(-1)),
        *sides(reference_BR.sum(-1)),
        *sides(bears_BR.sum(-1).double()),
        probability_P=policy_BR.new_tensor([pair.probability for pair in pairs]),
        margin_P=policy_BR.new_tensor([pair.margin for pair in pairs]),
        baseline=baseline,
    )
