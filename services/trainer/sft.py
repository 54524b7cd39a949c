"""Supervised fine-tuning: the next token, on demonstrations or plain text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from services.errors import FieldError
from services.models import LoadedCausal
from services.progress import ProgressFeed
from services.sequences import micro_batches
from services.templates import TemplateError, render_conversation, render_last_message, render_text
from services.trainer.batches import SftRow, sft_rectangle
from services.trainer.device import Compute
from services.trainer.loading import check_max_tokens
from services.trainer.metrics import mean, measured
from services.trainer.optimizers import Learner, NonFiniteError
from services.trainer.records import Demonstration, Excluded, StagePlan, StepOutcome
from services.trainer.settings import SftSettings
from services.trainer.stage import Stage, cut, shuffled
from services.weights import ModelVersion


class RowError(ValueError):
    """A row that cannot be learned from; `reason` is a short stable word."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class SftStage(Stage):
    """A language model, trained one pass a step."""

    kind = "sft"

    def __init__(
        self,
        plan: StagePlan,
        settings: SftSettings,
        loaded: LoadedCausal,
        version: ModelVersion,
        compute: Compute,
    ) -> None:
        super().__init__(plan, version, compute)
        check_max_tokens("sft.max_tokens", settings.max_tokens, loaded.context_length)
        self.settings, self.loaded = settings, loaded
        self.learner = Learner(loaded.model, settings.optimizer, settings.total_updates)
        self.learners = {"policy": self.learner}

    @property
    def published(self) -> Any:
        """The language model."""
        return self.loaded.model

    def step(self, batch: Sequence[Demonstration], step: int, progress: ProgressFeed) -> StepOutcome:
        """One pass over the batch in an order drawn from seed and step; none where no row of it can train."""
        self.compute.use_all_threads()
        progress.report("reading the batch", 0, len(batch))
        if not batch:
            raise FieldError("batch.rows", 0, "must hold at least one row")
        rows, excluded = self.encode(batch)
        if not rows:
            nothing = {"rows": 0, "excluded": len(excluded), "tokens": 0, "loss_tokens": 0, "updates": 0}
            return StepOutcome(True, measured(nothing), excluded)
        losses, norms = 0.0, []
        plan = cut(shuffled(len(rows), self.plan.seed, "sft", step), self.settings.minibatch_size)
        for number, chosen in enumerate(plan):
            progress.report("training", number, len(plan))
            rate = self.learner.learning_rate
            losses += self.accumulate([rows[i] for i in chosen])
            norms.append(self.learner.update())
        loss_tokens = sum(row.loss_tokens for row in rows)
        numbers = {
            "rows": len(rows),
            "excluded": len(excluded),
            "tokens": sum(len(row.ids) for row in rows),
            "loss_tokens": loss_tokens,
            "updates": len(plan),
            "loss": losses / loss_tokens,
            "gradient_norm": mean(norms),
            "learning_rate": rate,
        }
        return StepOutcome(True, measured(numbers), excluded)

    def accumulate(self, rows: Sequence[SftRow]) -> float:
        """Adds the gradient of the minibatch's mean loss per token; gives the sum of the losses.

        Every micro-batch is divided by the tokens of the WHOLE minibatch, so that their gradients add up to
        its gradient.
        """
        tokens = sum(row.loss_tokens for row in rows)
        size = self.compute.micro_batch_size(len(rows), self.settings.micro_batch_size)
        sums: dict[int, float] = {}

        def loss_of(part: tuple[int, list[int]], counts: bool) -> Tensor:
            number, group = part
            with self.compute.precision():
                loss = self._loss_sum([rows[i] for i in group])
            if not counts:
                return 0 * loss
            sums[number] = loss.item()
            return loss / tokens

        groups = list(enumerate(micro_batches([len(row.ids) for row in rows], rows=size)))
        dealt = self.compute.ranks.dealt(groups)
        self.learner.accumulate(self.compute, [partial(loss_of, *each) for each in dealt])
        total = math.fsum(self.compute.ranks.merged(sums).values())
        if not math.isfinite(total):
            raise NonFiniteError("the loss", total)
        return total

    def _loss_sum(self, rows: Sequence[SftRow]) -> Tensor:
        """Cross-entropy in nats, summed over the tokens that bear loss; logits from the first of them on."""
        ids_BT, mask_BT = (x.to(self.compute.device) for x in sft_rectangle(rows, self.loaded.pad_id))
        first = int(mask_BT.any(0).long().argmax())
        keep = ids_BT.shape[1] - first
        logits_BKV = self.loaded.model(input_ids=ids_BT[:, :-1], use_cache=False, logits_to_keep=keep).logits
        mask_BK = mask_BT[:, first:]
        return F.cross_entropy(logits_BKV[mask_BK].float(), ids_BT[:, first:][mask_BK], reduction="sum")

    def encode(self, batch: Sequence[Demonstration]) -> tuple[list[SftRow], list[Excluded]]:
        """The rows that can be learned from, and what became of the others."""
        rows, excluded = [], []
        for index, demonstration in enumerate(batch):
            try:
                rows.append(self._row(demonstration))
            except RowError as error:
                excluded.append(Excluded(index, error.reason, str(error)))
        return rows, excluded

    def _row(self, demonstration: Demonstration) -> SftRow:
        end, loss_on = self.loaded.eos_ids[0], self.settings.loss_on
        row = SftRow(*render_demonstration(self.loaded.tokenizer, demonstration, end, loss_on))
        if len(row.ids) > self.settings.max_tokens:
            limit = self.settings.max_tokens
            raise RowError("too_long", f"the row holds {len(row.ids)} tokens; the limit is {limit}")
        if not row.loss_tokens:
            raise RowError("empty", "the row holds no token that bears loss")
        return row


def render_demonstration(
    tokenizer: Any, row: Demonstration, end_id: int, loss_on: str
) -> tuple[list[int], list[bool]]:
    """Ids and which of them bear loss: those that `loss_on` names, or all of a text and the end behind it."""
    if row.messages is None:
        if not row.text:
            raise RowError("empty", "the row holds neither messages nor text")
        ids = [*render_text(tokenizer, row.text), end_id]
        return ids, [True] * len(ids)
    try:
        if loss_on == "last":
            return render_last_message(tokenizer, row.messages)
        ids, said = render_conversation(tokenizer, row.messages)
        return ids, said if loss_on == "assistant" else [True] * len(ids)
    except TemplateError as error:
        raise RowError("template_failed", str(error)) from None
