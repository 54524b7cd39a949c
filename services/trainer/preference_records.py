"""Pairs as they arrive at the trainer, and as they train. Plain data that pickles, like records.py."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.trainer.records import Prompt
from services.weights import ModelVersion

NO_VERSION = ModelVersion("", 0, "")


@dataclass(frozen=True)
class SampledResponse:
    """One side of a pair as a policy sampled it; nothing is tokenised again."""

    prompt_ids: list[int]
    response_ids: list[int]
    temperature: float = 1.0
    reference_logprobs: list[float] = field(default_factory=list)  # none: the trainer's own reference says
    reference_version: ModelVersion = NO_VERSION


@dataclass(frozen=True)
class SampledPair:
    """Two sampled responses to the same prompt ids."""

    first: SampledResponse
    second: SampledResponse


@dataclass(frozen=True)
class WrittenPair:
    """Two responses as text: WrittenPair("hi", "hello !", "what ?")."""

    prompt: Prompt
    first: str
    second: str


@dataclass(frozen=True)
class PreferencePair:
    """A pair as it arrives at the trainer's door, nothing checked yet.

    Either `probability` says how likely the first is the better one, or `fault` says (reason, message) why
    nothing does.
    """

    responses: SampledPair | WrittenPair
    probability: float = float("nan")
    fault: tuple[str, str] | None = None
    margin: float = 0.0
    weight: float = 1.0


@dataclass(frozen=True)
class Side:
    """A response that trains: its ids, which of them bear loss, and the reference's log-probs where given."""

    ids: list[int]
    bears_loss: list[bool]
    reference_logprobs: list[float]

    @property
    def loss_tokens(self) -> int:
        """Tokens that bear loss."""
        return sum(self.bears_loss)


@dataclass(frozen=True)
class TrainingPair:
    """A pair that passed the door, the better side first: `probability` is from 0.5 to 1."""

    prompt: list[int]
    chosen: Side
    rejected: Side
    probability: float
    margin: float
    weight: float

    @property
    def sides(self) -> tuple[Side, Side]:
        """Chosen, rejected."""
        return self.chosen, self.rejected

    @property
    def longest(self) -> int:
        """Tokens of the prompt and the longer response."""
        return len(self.prompt) + max(len(side.ids) for side in self.sides)

    @property
    def tokens(self) -> int:
        """Tokens of both sequences, the prompt in each."""
        return 2 * len(self.prompt) + sum(len(side.ids) for side in self.sides)
