"""What a preference stage is told, field by field as in trainer.proto, where each field is explained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from services.errors import FieldError
from services.trainer.preference_losses import PREFERENCE_LOSSES, Coefficients, PreferenceLoss
from services.trainer.settings import (
    ABOVE_0,
    ANY,
    AT_LEAST_1,
    NOT_BELOW_0,
    SHARE,
    OptimizerSettings,
    StageSettings,
    one_of,
    within,
)


@dataclass(frozen=True)
class PreferenceSettings(StageSettings):
    """Learning from preferences without a reward model."""

    optimizer: OptimizerSettings
    epochs: int = within(AT_LEAST_1)
    minibatch_size: int = within(AT_LEAST_1)
    micro_batch_size: int = within((lambda x: x >= 2, "must be at least 2: a pair is two sequences"))
    max_tokens: int = within((lambda x: x >= 2, "must be at least 2"))
    total_updates: int = within(AT_LEAST_1)
    loss: str = within(one_of(tuple(PREFERENCE_LOSSES)))
    beta: float = within(ABOVE_0)
    label_smoothing: float = within((lambda x: 0 <= x < 0.5, "must be at least 0 and below 0.5"))
    simpo_margin: float = within(NOT_BELOW_0)
    kto_desirable_weight: float = within(ABOVE_0)
    kto_undesirable_weight: float = within(ABOVE_0)
    nll_coefficient: float = within(NOT_BELOW_0)
    temperature: float = within(ABOVE_0)
    masked_tokens: list[str] = within(ANY)
    max_missing_share: float = within(SHARE)

    def faults(self, path: str) -> Iterator[FieldError]:
        """As for all settings, and what the loss does not take."""
        yield from super().faults(path)
        row = PREFERENCE_LOSSES.get(self.loss)
        if row is None:
            return
        if self.label_smoothing and not row.smoothed:
            limit = f"must be 0: {self.loss} takes none; cdpo and robust_dpo do"
            yield FieldError(f"{path}.label_smoothing", self.label_smoothing, limit)
        if self.nll_coefficient and not row.nll:
            limit = f"must be 0: {self.loss} has its own likelihood term"
            yield FieldError(f"{path}.nll_coefficient", self.nll_coefficient, limit)

    @property
    def loss_row(self) -> PreferenceLoss:
        """The loss, from its table."""
        return PREFERENCE_LOSSES[self.loss]

    @property
    def coefficients(self) -> Coefficients:
        """The numbers that the loss takes."""
        return Coefficients(
            beta=self.beta,
            label_smoothing=self.label_smoothing,
            simpo_margin=self.simpo_margin,
            desirable_weight=self.kto_desirable_weight,
            undesirable_weight=self.kto_undesirable_weight,
            nll=self.nll_coefficient,
        )
