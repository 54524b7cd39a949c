"""What a scorer is asked and what it answers; learned models and rules look alike from here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.weights import ModelVersion

Prompt = str | list[dict[str, str]]


@dataclass(frozen=True)
class Exchange:
    """A prompt and an answer: Exchange("what is 2 + 2 ?", "4") or Exchange([{"role": "user", ...}], "4")."""

    prompt: Prompt
    response: str

    def fault(self) -> NotScored | None:
        """Why nobody can score this, or None.

        An empty response is an answer, and a bad one: were it left out, nothing would teach a policy not to
        end at once.
        """
        texts = [self.prompt] if isinstance(self.prompt, str) else [turn["content"] for turn in self.prompt]
        if not any(text.strip() for text in texts):
            return NotScored("empty_prompt", "the prompt is empty")
        return None


@dataclass(frozen=True)
class Scored:
    """A reward: Scored(raw=1.5, normalised=0.2, truncated=False, tokens=37).

    Of an ensemble also how far its members are apart, as a standard deviation.
    """

    raw: float
    normalised: float
    truncated: bool = False
    tokens: int = 0
    disagreement: float | None = None


@dataclass(frozen=True)
class NotScored:
    """Why there is no reward: a short stable word and a sentence."""

    reason: str
    message: str


Outcome = Scored | NotScored


@dataclass(frozen=True)
class Normalisation:
    """normalised = gain * raw + bias + length_coefficient * tokens of the response."""

    gain: float
    bias: float
    length_coefficient: float = 0.0


UNFITTED = Normalisation(1.0, 0.0)


@dataclass(frozen=True)
class Description:
    """What a scorer is: a rule has a function, a combination its parts, a loaded model the rest.

    What is `fixed` has no versions: rules, and combinations of nothing but rules.
    """

    name: str
    function: str = ""
    fixed: bool = False
    combination: str = ""
    parts: tuple[str, ...] = ()
    version: ModelVersion | None = None
    tokenizer_sha256: str = ""
    template_sha256: str = ""
    context_length: int = 0
    normalisation: Normalisation | None = None


class Scorer(Protocol):
    """Scores exchanges, each to a reward or to the reason why there is none."""

    @property
    def description(self) -> Description:
        """What answers."""

    def score(self, exchanges: Sequence[Exchange]) -> list[Outcome]:
        """One outcome per exchange, in order."""


def finite_score(
    raw: float,
    normalisation: Normalisation = UNFITTED,
    *,
    truncated: bool = False,
    tokens: int = 0,
    response_tokens: int = 0,
) -> Outcome:
    """A Scored, or NotScored("non_finite"): NaN and infinity are no rewards, before or after normalising."""
    of_length = normalisation.length_coefficient * response_tokens
    normalised = normalisation.gain * raw + normalisation.bias + of_length
    if not (math.isfinite(raw) and math.isfinite(normalised)):
        return NotScored("non_finite", f"the score is {raw}, {normalised} when normalised")
    return Scored(raw, normalised, truncated, tokens)
