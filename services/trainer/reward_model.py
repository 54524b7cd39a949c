"""Reward modelling: a scalar model learns from comparisons, all of a prompt's pairs from one forward each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from services.errors import FieldError, PreconditionError
from services.models import LoadedScalar
from services.progress import ProgressFeed
from services.sequences import micro_batches, pad_right
from services.templates import TemplateError, render_exchange, response_length
from services.trainer.advantages import fit_normalisation, length_slope
from services.trainer.bradley_terry import group_loss, ordered_right
from services.trainer.commands import FitNormalisation
from services.trainer.device import Compute
from services.trainer.loading import check_max_tokens
from services.trainer.metrics import mean, measured
from services.trainer.optimizers import Learner, NonFiniteError
from services.trainer.records import (
    AnsweredPrompt,
    Comparison,
    Excluded,
    Group,
    Normalisation,
    StagePlan,
    StepOutcome,
)
from services.trainer.settings import RewardModelSettings
from services.trainer.stage import Stage, cut, shuffled
from services.weights import ModelVersion


@dataclass(frozen=True)
class EncodedGroup:
    """One prompt's exchanges as ids, K rows, and their comparisons as tensors, P entries."""

    rows: list[list[int]]
    first_P: Tensor
    second_P: Tensor
    probability_P: Tensor
    margin_P: Tensor


@dataclass
class Measured:
    """Sums over groups, for the metrics."""

    loss: float = 0.0
    groups: int = 0
    right: float = 0.0
    decided: int = 0
    comparisons: int = 0
    lead: float = 0.0
    rewards: list[float] = field(default_factory=list)

    def count(self, group: EncodedGroup, loss: Tensor, rewards_K: Tensor) -> None:
        """Counts one group in."""
        delta_P = rewards_K[group.first_P] - rewards_K[group.second_P]
        right, decided = ordered_right(delta_P, group.probability_P)
        self.loss += loss.item()
        self.groups += 1
        self.right += right
        self.decided += decided
        self.comparisons += len(delta_P)
        self.lead += (delta_P * (group.probability_P - 0.5).sign()).sum().item()
        self.rewards += rewards_K.tolist()

    def add(self, other: Measured) -> None:
        """Counts other groups' sums in."""
        for field_name, value in vars(other).items():
            setattr(self, field_name, getattr(self, field_name) + value)

    def numbers(self) -> dict[str, float | None]:
        """Means by the names of trueline.metrics.STEP_NUMBERS; of no group the counts alone."""
        if not self.groups:
            return {"rows": 0, "comparisons": 0}
        rewards_N = torch.tensor(self.rewards, dtype=torch.float64)
        return {
            "rows": self.groups,
            "comparisons": self.comparisons,
            "loss": self.loss / self.groups,
            "accuracy": self.right / self.decided if self.decided else None,
            "margin_mean": self.lead / self.decided if self.decided else None,
            "reward_mean": rewards_N.mean().item(),
            "reward_stddev": rewards_N.std(correction=0).item(),
        }


class RewardModelStage(Stage):
    """A scalar model, trained one pass a step."""

    kind = "reward_model"

    def __init__(
        self,
        plan: StagePlan,
        settings: RewardModelSettings,
        loaded: LoadedScalar,
        version: ModelVersion,
        compute: Compute,
    ) -> None:
        super().__init__(plan, version, compute)
        check_max_tokens("reward_model.max_tokens", settings.max_tokens, loaded.context_length)
        self.settings, self.loaded = settings, loaded
        self.learner = Learner(loaded.model, settings.optimizer, settings.total_updates)
        self.learners = {"reward": self.learner}
        self.normalisation: Normalisation | None = None

    @property
    def published(self) -> Any:
        """The scalar model, as a sequence-classification model with one label."""
        return self.loaded.model.classifier

    def manifest_extra(self) -> dict[str, Any]:
        """The normalisation, where one was fitted on these very weights."""
        return {"normalisation": vars(self.normalisation)} if self.normalisation else {}

    def own_state(self) -> dict[str, Any]:
        """The normalisation."""
        return self.manifest_extra()

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Puts the normalisation back."""
        given = state.get("normalisation")
        self.normalisation = Normalisation(**given) if given else None

    def step(self, batch: Sequence[Group], step: int, progress: ProgressFeed) -> StepOutcome:
        """One pass over the groups in an order drawn from seed and step; none where no group can be used."""
        self.compute.use_all_threads()
        groups, excluded = self._encode(batch, progress)
        self.normalisation = None  # it was fitted on the weights before
        sums, norms, rate = Measured(), [], None
        plan = cut(shuffled(len(groups), self.plan.seed, "reward", step), self.settings.minibatch_size)
        for number, chosen in enumerate(plan):
            progress.report("training", number, len(plan))
            rate = self.learner.learning_rate
            self.accumulate([groups[i] for i in chosen], sums)
            norms.append(self.learner.update())
        training = {"updates": len(plan), "gradient_norm": mean(norms), "learning_rate": rate}
        return self._outcome(True, sums, groups, excluded, training)

    def evaluate(self, batch: Sequence[Group], progress: ProgressFeed) -> StepOutcome:
        """The metrics alone: nothing is trained."""
        self.compute.use_all_threads()
        groups, excluded = self._encode(batch, progress)
        sums, parts = Measured(), {}
        dealt = self.compute.ranks.dealt(list(enumerate(self._micro_batches(groups))))
        with torch.no_grad():
            for (number, chosen), counts in dealt:
                progress.report("measuring", number)
                measured_here = Measured()
                self._loss_sum([groups[i] for i in chosen], measured_here)
                if counts:
                    parts[number] = measured_here
        for each in self.compute.ranks.merged(parts).values():
            sums.add(each)
        return self._outcome(False, sums, groups, excluded, {})

    def _outcome(
        self,
        trained: bool,
        sums: Measured,
        groups: Sequence[EncodedGroup],
        excluded: list[Excluded],
        training: dict[str, float | None],
    ) -> StepOutcome:
        tokens = sum(len(row) for group in groups for row in group.rows)
        numbers = {**sums.numbers(), "tokens": tokens, "excluded": len(excluded), **training}
        return StepOutcome(trained, measured(numbers), excluded)

    def fit(self, wanted: FitNormalisation, progress: ProgressFeed) -> Normalisation:
        """Gain and bias that give the samples' scores the wanted mean and spread; kept for publishing.

        Length-controlled, it is what the samples' lengths do not explain that gets them.
        """
        self.compute.use_all_threads()
        samples, rows = self._samples(wanted.samples)
        progress.report("scoring samples", 0, len(rows))
        scores_N = self._scores(rows)
        if not scores_N.isfinite().all():
            raise NonFiniteError("a sample's score", math.nan)
        lengths_N = torch.zeros_like(scores_N)
        if wanted.length_controlled:
            tokenizer = self.loaded.tokenizer
            lengths_N += torch.tensor([response_length(tokenizer, each.response) for each in samples])
        try:
            slope = length_slope(scores_N, lengths_N) if wanted.length_controlled else 0.0
            rest_N = scores_N.double() - slope * lengths_N
            gain, bias = fit_normalisation(rest_N, wanted.target_mean, wanted.target_stddev)
        except ValueError as error:
            raise PreconditionError("not_fitted", str(error)) from None
        mean, spread = scores_N.double().mean().item(), scores_N.double().std(correction=0).item()
        self.normalisation = Normalisation(gain, bias, mean, spread, -gain * slope)
        return self.normalisation

    def accumulate(self, groups: Sequence[EncodedGroup], sums: Measured) -> None:
        """Adds the gradient of the minibatch's mean loss per prompt."""
        parts: dict[int, Measured] = {}

        def loss_of(part: tuple[int, list[int]], counts: bool) -> Tensor:
            number, chosen = part
            measured = Measured()
            loss = self._loss_sum([groups[i] for i in chosen], measured)
            if not counts:
                return 0 * loss
            parts[number] = measured
            return loss / len(groups)

        dealt = self.compute.ranks.dealt(list(enumerate(self._micro_batches(groups))))
        self.learner.accumulate(self.compute, [partial(loss_of, *each) for each in dealt])
        for each in self.compute.ranks.merged(parts).values():
            sums.add(each)
        if not math.isfinite(sums.loss):
            raise NonFiniteError("the loss", sums.loss)

    def _micro_batches(self, groups: Sequence[EncodedGroup]) -> list[list[int]]:
        """Indices of groups whose sequences fit one forward pass; a group is never torn apart."""
        sequences = sum(len(group.rows) for group in groups)
        limit = self.compute.micro_batch_size(sequences, self.settings.micro_batch_size)
        packed: list[list[int]] = []
        free = 0
        for (index,) in micro_batches([max(map(len, group.rows)) for group in groups], rows=1):
            size = len(groups[index].rows)
            if size > free or not packed:
                packed.append([])
                free = limit
            packed[-1].append(index)
            free -= size
        return packed

    def _loss_sum(self, groups: Sequence[EncodedGroup], sums: Measured) -> Tensor:
        """Sum of the prompts' losses from one forward pass over all their responses."""
        rewards_N = self._rewards([row for group in groups for row in group.rows])
        losses = []
        for group, rewards_K in zip(
            groups, rewards_N.split([len(group.rows) for group in groups]), strict=True
        ):
            loss = group_loss(
                rewards_K,
                group.first_P,
                group.second_P,
                group.probability_P,
                group.margin_P,
                self.settings.centering_coefficient,
            )
            sums.count(group, loss.detach(), rewards_K.detach())
            losses.append(loss)
        return torch.stack(losses).sum()

    def _rewards(self, rows: Sequence[list[int]]) -> Tensor:
        ids_BT, mask_BT = (x.to(self.compute.device) for x in pad_right(rows, self.loaded.pad_id))
        with self.compute.precision():
            rewards_B: Tensor = self.loaded.model(ids_BT, mask_BT)
        return rewards_B

    @torch.no_grad()
    def _scores(self, rows: Sequence[list[int]]) -> Tensor:
        scores_N = torch.zeros(len(rows), device=self.compute.device)
        size = self.compute.ranks_share(len(rows), self.settings.micro_batch_size)
        for chosen, counts in self.compute.ranks.dealt(micro_batches([len(row) for row in rows], rows=size)):
            found = self._rewards([rows[i] for i in chosen])
            if counts:
                scores_N[chosen] = found
        return self.compute.ranks.summed(scores_N).cpu()

    def _encode(
        self, batch: Sequence[Group], progress: ProgressFeed
    ) -> tuple[list[EncodedGroup], list[Excluded]]:
        progress.report("reading the batch", 0, len(batch))
        if not batch:
            raise FieldError("batch.groups", 0, "must hold at least one group")
        groups, excluded = [], []
        for index, group in enumerate(batch):
            try:
                groups.append(self._group(group))
            except TemplateError as error:
                excluded.append(Excluded(index, "template_failed", str(error)))
            except TooLong as error:
                excluded.append(Excluded(index, "too_long", str(error)))
        return groups, excluded

    def _group(self, group: Group) -> EncodedGroup:
        rows = [self._exchange(AnsweredPrompt(group.prompt, response)) for response in group.responses]
        return EncodedGroup(rows, *_comparison_tensors(group.comparisons, self.compute.device))

    def _samples(self, samples: Sequence[AnsweredPrompt]) -> tuple[list[AnsweredPrompt], list[list[int]]]:
        """The samples that can be scored and their ids, as a step leaves out rows that cannot.

        FieldError where there are none.
        """
        kept, rows, faults = [], [], []
        for sample in samples:
            try:
                rows.append(self._exchange(sample))
                kept.append(sample)
            except ValueError as error:
                faults.append(str(error))
        if not rows:
            why = faults[0] if faults else "there are none"
            raise FieldError("samples", len(samples), f"no sample can be scored: {why}")
        return kept, rows

    def _exchange(self, exchange: AnsweredPrompt) -> list[int]:
        ids = render_exchange(self.loaded.tokenizer, exchange.prompt, exchange.response)
        if len(ids) > self.settings.max_tokens:
            limit = self.settings.max_tokens
            raise TooLong(f"prompt and response hold {len(ids)} tokens; the limit is {limit}")
        return ids


class TooLong(ValueError):
    """A prompt with its response is longer than the limit."""


def _comparison_tensors(
    comparisons: Sequence[Comparison], device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(first_P, second_P, probability_P, margin_P)"""
    return (
        torch.tensor([c.first for c in comparisons], device=device),
        torch.tensor([c.second for c in comparisons], device=device),
        torch.tensor([c.probability for c in comparisons], dtype=torch.float32, device=device),
        torch.tensor([c.margin for c in comparisons], dtype=torch.float32, device=device),
    )
