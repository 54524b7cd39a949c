"""What a stage is told, field by field as in trainer.proto, where each field is explained.

Example: PpoSettings(...).check("ppo") raises FieldErrors that name every field out of its limits at once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from services.errors import FieldError, FieldErrors

Limit = tuple[Callable[[Any], bool], str]

SCHEDULES = ("constant", "linear", "cosine")
LOSS_ON = ("assistant", "last", "all")
KL_ESTIMATORS = ("k1", "k2", "k3")

ABOVE_0: Limit = (lambda x: x > 0, "must be above 0")
NOT_BELOW_0: Limit = (lambda x: x >= 0, "must be at least 0")
AT_LEAST_1: Limit = (lambda x: x >= 1, "must be at least 1")
SHARE: Limit = (lambda x: 0 <= x <= 1, "must be from 0 to 1")
BELOW_1: Limit = (lambda x: 0 <= x < 1, "must be at least 0 and below 1")
BETWEEN_0_AND_1: Limit = (lambda x: 0 < x < 1, "must be between 0 and 1")
OFF_OR_ABOVE_1: Limit = (lambda x: x == 0 or x > 1, "must be 0 (off) or above 1")
ANY: Limit = (lambda x: True, "")


def one_of(words: tuple[str, ...]) -> Limit:
    """The limit of a field that is one of a few words."""
    return lambda x: x in words, f"must be one of {', '.join(words)}"


def within(limit: Limit) -> Any:
    """A field and its limit."""
    return dataclasses.field(metadata={"limit": limit})


class StageSettings:
    """Settings that can name their own faults."""

    def check(self, path: str) -> None:
        """Raises FieldErrors with every fault; `path` is what the settings are called in the request."""
        faults = list(self.faults(path))
        if faults:
            raise FieldErrors(faults)

    def faults(self, path: str) -> Iterator[FieldError]:
        """Every field out of its limits, those of settings within settings included."""
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, StageSettings):
                yield from value.faults(f"{path}.{field.name}")
            else:
                yield from _fault(f"{path}.{field.name}", value, field.metadata["limit"])


def _fault(path: str, value: Any, limit: Limit) -> Iterator[FieldError]:
    if isinstance(value, float) and not math.isfinite(value):
        yield FieldError(path, value, "must be a finite number")
    elif not limit[0](value):
        yield FieldError(path, value, limit[1])


@dataclass(frozen=True)
class OptimizerSettings(StageSettings):
    """AdamW and its schedule."""

    learning_rate: float = within(ABOVE_0)
    beta1: float = within(BELOW_1)
    beta2: float = within(BELOW_1)
    epsilon: float = within(ABOVE_0)
    weight_decay: float = within(NOT_BELOW_0)
    max_gradient_norm: float = within(NOT_BELOW_0)
    warmup_updates: int = within(NOT_BELOW_0)
    schedule: str = within(one_of(SCHEDULES))


@dataclass(frozen=True)
class SftSettings(StageSettings):
    """Supervised fine-tuning, pretraining included."""

    optimizer: OptimizerSettings
    minibatch_size: int = within(AT_LEAST_1)
    micro_batch_size: int = within(AT_LEAST_1)
    max_tokens: int = within((lambda x: x >= 2, "must be at least 2"))
    total_updates: int = within(AT_LEAST_1)
    loss_on: str = within(one_of(LOSS_ON))


@dataclass(frozen=True)
class RewardModelSettings(StageSettings):
    """Reward modelling."""

    optimizer: OptimizerSettings
    minibatch_size: int = within(AT_LEAST_1)
    micro_batch_size: int = within(AT_LEAST_1)
    max_tokens: int = within((lambda x: x >= 2, "must be at least 2"))
    total_updates: int = within(AT_LEAST_1)
    centering_coefficient: float = within(NOT_BELOW_0)


@dataclass(frozen=True)
class PpoSettings(StageSettings):
    """Proximal policy optimisation."""

    policy_optimizer: OptimizerSettings
    critic_optimizer: OptimizerSettings
    total_rounds: int = within(AT_LEAST_1)
    epochs: int = within(AT_LEAST_1)
    minibatches: int = within(AT_LEAST_1)
    micro_batch_size: int = within(AT_LEAST_1)
    critic_warmup_rounds: int = within(NOT_BELOW_0)
    gamma: float = within(SHARE)
    gae_lambda: float = within(SHARE)
    clip_range: float = within(BETWEEN_0_AND_1)
    dual_clip: float = within(OFF_OR_ABOVE_1)
    value_clip_range: float = within(NOT_BELOW_0)
    value_coefficient: float = within(ABOVE_0)
    entropy_coefficient: float = within(NOT_BELOW_0)
    kl_estimator: str = within(one_of(KL_ESTIMATORS))
    kl_coefficient: float = within(NOT_BELOW_0)
    kl_target: float = within(NOT_BELOW_0)
    kl_horizon: float = within(NOT_BELOW_0)
    kl_budget_soft: float = within(NOT_BELOW_0)
    kl_budget_hard: float = within(NOT_BELOW_0)
    missing_end_penalty: float = within(NOT_BELOW_0)
    score_clip: float = within(NOT_BELOW_0)
    whiten_rewards: bool = within(ANY)
    whiten_advantages: bool = within(ANY)
    importance_cap: float = within(NOT_BELOW_0)
    max_missing_share: float = within(SHARE)

    def faults(self, path: str) -> Iterator[FieldError]:
        """As for all settings, and what no single field can know."""
        yield from super().faults(path)
        if self.kl_target > 0 and not self.kl_coefficient > 0:
            what = "must be above 0 where kl_target is set: it moves by factors, and 0 stays 0"
            yield FieldError(f"{path}.kl_coefficient", self.kl_coefficient, what)
        if self.kl_target > 0 and not self.kl_horizon > 0:
            yield FieldError(f"{path}.kl_horizon", self.kl_horizon, "must be above 0 where kl_target is set")
        if 0 < self.kl_budget_hard < self.kl_budget_soft:
            limit = f"must be at most kl_budget_hard, {self.kl_budget_hard:g}"
            yield FieldError(f"{path}.kl_budget_soft", self.kl_budget_soft, limit)
