"""What the trainer is given and what it gives back: plain data, below the edge and above the tensors.

Everything here pickles, so that under torchrun rank 0 can send the same command to every rank.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from services.templates import Message
from services.trainer.preference_settings import PreferenceSettings
from services.trainer.settings import PpoSettings, RewardModelSettings, SftSettings
from services.weights import ModelVersion

Prompt = str | list[Message]


@dataclass(frozen=True)
class Location:
    """A model's directory; `version` None stands for a plain Hugging Face directory."""

    path: Path
    version: ModelVersion | None


@dataclass(frozen=True)
class StagePlan:
    """A stage as it is begun."""

    run_id: str
    stage: str
    trained: Location
    reward: Location | None
    output_model: str
    models_dir: Path
    checkpoints_dir: Path
    seed: int
    settings: SftSettings | RewardModelSettings | PpoSettings | PreferenceSettings
    reference: Location | None = None


@dataclass(frozen=True)
class Demonstration:
    """One row of SFT: messages or a text."""

    messages: list[Message] | None = None
    text: str | None = None


@dataclass(frozen=True)
class Comparison:
    """Of two responses the first is better with this probability, and by this margin."""

    first: int
    second: int
    probability: float
    margin: float


@dataclass(frozen=True)
class Group:
    """A prompt, its responses and how they compare: Group("hi", ["yes", "no"], [Comparison(0, 1, 1, 0)])."""

    prompt: Prompt
    responses: list[str]
    comparisons: list[Comparison]


@dataclass(frozen=True)
class AnsweredPrompt:
    """A prompt with one response."""

    prompt: Prompt
    response: str


@dataclass(frozen=True)
class ScoredRollout:
    """A rollout as it arrives at the trainer's door, nothing checked yet.

    Either `score` and `raw_score` are numbers, or `score_fault` says (reason, message) why there are none.
    """

    prompt_ids: list[int]
    response_ids: list[int]
    policy_logprobs: list[float]
    reference_logprobs: list[float]
    logprob_kind: str  # "raw", "temperature", "processed" or "unspecified"
    finish_reason: str  # "end_of_text", "stop_text", "length" or "unspecified"
    policy_version: ModelVersion
    temperature: float
    top_p: float
    top_k: int
    score: float = float("nan")
    raw_score: float = float("nan")
    score_fault: tuple[str, str] | None = None

    @property
    def ended(self) -> bool:
        """True when the response ended itself rather than at the length limit."""
        return self.finish_reason != "length"


@dataclass(frozen=True)
class Excluded:
    """A row that was left out: Excluded(3, "too_long", "holds 130 tokens; the limit is 128")."""

    row: int
    reason: str
    message: str


@dataclass(frozen=True)
class StageBegun:
    """What a stage began with."""

    parameters: int
    critic_origin: str = ""
    critic_origin_reason: str = ""


@dataclass(frozen=True)
class StepOutcome:
    """What one step did to the stage; `kl_budget` is "", "ok", "warn" or "stop"."""

    trained: bool
    metrics: dict[str, float]
    excluded: list[Excluded] = field(default_factory=list)
    kl_budget: str = ""


@dataclass(frozen=True)
class StepReport:
    """A step's outcome and where it left the trainer."""

    outcome: StepOutcome
    step: int
    weights_sha256: str


@dataclass(frozen=True)
class Normalisation:
    """normalised = gain * raw + bias + length_coefficient * response tokens, and what it was fitted on."""

    gain: float
    bias: float
    raw_mean: float
    raw_stddev: float
    length_coefficient: float = 0.0


@dataclass(frozen=True)
class CheckpointPlace:
    """A checkpoint on disk."""

    path: Path
    sha256: str
    step: int


@dataclass(frozen=True)
class Standing:
    """Where the trainer stands; replaced whole, so that it can be read while a step runs."""

    stage: str = ""
    run_id: str = ""
    step: int = 0
    checkpoint: CheckpointPlace | None = None
    weights_sha256: str = ""
