"""What the trainer can be told to do. Plain data: under torchrun rank 0 sends each to every rank."""

from __future__ import annotations

from dataclasses import dataclass

from services.trainer.preference_records import PreferencePair
from services.trainer.records import (
    AnsweredPrompt,
    CheckpointPlace,
    Demonstration,
    Group,
    Location,
    ScoredRollout,
    StagePlan,
)


@dataclass(frozen=True)
class BeginStage:
    """Load the stage's models; the step count becomes 0."""

    plan: StagePlan


@dataclass(frozen=True)
class OnStage:
    """A command to the stage that runs; refused when run or step count are not what the caller thinks."""

    run_id: str
    expected_step: int


@dataclass(frozen=True)
class SftStep(OnStage):
    """One pass over demonstrations."""

    rows: list[Demonstration]


@dataclass(frozen=True)
class RewardModelStep(OnStage):
    """One pass over comparisons, or their metrics alone."""

    groups: list[Group]
    evaluate_only: bool


@dataclass(frozen=True)
class PpoStep(OnStage):
    """One round of PPO."""

    rollouts: list[ScoredRollout]


@dataclass(frozen=True)
class PreferenceStep(OnStage):
    """Passes over pairs, or their metrics alone."""

    pairs: list[PreferencePair]
    evaluate_only: bool


@dataclass(frozen=True)
class FitNormalisation(OnStage):
    """Fit the reward model's gain and bias."""

    samples: list[AnsweredPrompt]
    target_mean: float
    target_stddev: float
    length_controlled: bool = False


@dataclass(frozen=True)
class Publish(OnStage):
    """Write the stage's model as version `number`."""

    number: int


@dataclass(frozen=True)
class RollBack(OnStage):
    """Make `good` the policy again and publish it as version `number`."""

    good: Location
    number: int


@dataclass(frozen=True)
class WriteCheckpoint(OnStage):
    """Write all that a restart needs."""


@dataclass(frozen=True)
class Restore:
    """Go on from a checkpoint."""

    run_id: str
    checkpoint: CheckpointPlace


Command = BeginStage | OnStage | Restore
