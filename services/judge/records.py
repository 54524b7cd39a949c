"""What a judge is asked and what it answers, whichever back end stands behind it.

    backend.choose([Question("... (A) yes (B) no ...", ("A", "B"))], until)      # log-probs, or an option
    backend.write(["... what is wrong with it?"], Sampling(max_new_tokens=64), until)   # critiques, revisions

A failure is an Abstained in the place of the answer: it has no number, and costs what it cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from services.weights import ModelVersion
from services.work import Timing

MESSAGE_CHARACTERS = 300

Prompt = str | list[dict[str, str]]


class Reason(Enum):
    """Why there is no verdict; the wire's AbstentionReason says more of each."""

    ORDERS_DISAGREE = "orders_disagree"
    TIE = "tie"
    UNPARSABLE = "unparsable"
    EMPTY_ANSWER = "empty_answer"
    EMPTY_INPUT = "empty_input"
    IDENTICAL_RESPONSES = "identical_responses"
    TOO_LONG = "too_long"
    TEMPLATE_FAILED = "template_failed"
    NON_FINITE = "non_finite"
    NO_LOGPROBS = "no_logprobs"
    ENDPOINT_FAILED = "endpoint_failed"
    ENDPOINT_REFUSED = "endpoint_refused"
    RATE_LIMITED = "rate_limited"
    TIMED_OUT = "timed_out"
    FILTERED = "filtered"


@dataclass(frozen=True)
class Abstained:
    """Why there is no answer: a word and a sentence."""

    reason: Reason
    message: str


def abstained(reason: Reason, message: str) -> Abstained:
    """An Abstained whose message is cut to a line's length: it may quote what a judge wrote."""
    return Abstained(reason, message[:MESSAGE_CHARACTERS])


@dataclass(frozen=True)
class Usage:
    """What answers cost. `uncounted_calls` are those whose endpoint told no tokens."""

    calls: int = 0
    uncounted_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.calls + other.calls,
            self.uncounted_calls + other.uncounted_calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )


@dataclass(frozen=True)
class Question:
    """A text that ends by asking for one of the options."""

    text: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """What came of a question.

    found     one log-prob per option in nats, or the index of the option that the text names, or a failure
    raw       what was written; empty where only probabilities were asked for
    revision  what the endpoint says it is
    """

    found: tuple[float, ...] | int | Abstained
    raw: str = ""
    revision: str = ""
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True)
class Sampling:
    """How texts are written: temperature 0 takes the likeliest token."""

    temperature: float = 0.0
    max_new_tokens: int = 256
    seed: int = 0


@dataclass(frozen=True)
class Written:
    """A text, or why there is none; `truncated` when it ended for want of tokens."""

    text: str | Abstained
    truncated: bool = False
    revision: str = ""
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True)
class Identity:
    """Who judges: a local version, or an endpoint's model."""

    model: str
    version: ModelVersion | None = None
    endpoint: str = ""
    tokenizer_sha256: str = ""
    template_sha256: str = ""


class Backend(Protocol):
    """One model that answers. `until` is the event loop's time by which a remote one has to."""

    @property
    def identity(self) -> Identity:
        """Who answers."""

    async def choose(self, questions: Sequence[Question], until: float) -> tuple[list[Answer], Timing]:
        """One answer per question, in order; a question that fails fails alone."""

    async def write(
        self, prompts: Sequence[str], sampling: Sampling, until: float
    ) -> tuple[list[Written], Timing]:
        """One text per prompt, in order; a prompt that fails fails alone."""
