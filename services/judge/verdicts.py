"""From answers to verdicts and scores: pure functions, no model and no wire.

A verdict holds every reading it was made of, so that whoever doubts it can make it again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from services.judge import labels
from services.judge.principles import prompt_sha256, text_sha256
from services.judge.records import Abstained, Answer, Prompt, Reason, Usage, abstained


class Order(Enum):
    """In which order two responses stood before the judge; NONE for a score."""

    NONE = "none"
    AS_GIVEN = "as_given"
    SWAPPED = "swapped"


@dataclass(frozen=True)
class Rules:
    """How answers are read; the wire's ReadingRules says more of each."""

    min_option_mass: float = 0.0
    tie_band: float = 0.0
    disagreement_tolerance: float = 0.0
    chain_of_thought: bool = False


@dataclass(frozen=True)
class Pair:
    """Two responses to one prompt."""

    item_id: str
    prompt: Prompt
    first: str
    second: str

    @property
    def hashes(self) -> tuple[str, str, str]:
        """SHA-256 of prompt, first and second response."""
        return prompt_sha256(self.prompt), text_sha256(self.first), text_sha256(self.second)

    def fault(self) -> Abstained | None:
        """Why no judge need be asked. An empty response is one to judge: a policy may drift to it."""
        if self.first.strip() == self.second.strip() == "" or self.first == self.second:
            same = abstained(Reason.IDENTICAL_RESPONSES, "the two responses are the same text")
            return empty_input(self.prompt) or same
        return empty_input(self.prompt)


@dataclass(frozen=True)
class Exchange:
    """One response to a prompt."""

    item_id: str
    prompt: Prompt
    response: str

    @property
    def hashes(self) -> tuple[str, str]:
        """SHA-256 of prompt and response."""
        return prompt_sha256(self.prompt), text_sha256(self.response)

    def fault(self) -> Abstained | None:
        """Why no judge need be asked for a score: an empty response has one."""
        return empty_input(self.prompt)

    def text_fault(self) -> Abstained | None:
        """Why there is nothing to criticise or to revise."""
        return empty_input(self.prompt, response=self.response)


def empty_input(prompt: Prompt, **texts: str) -> Abstained | None:
    """An Abstained that names the first empty part, or None."""
    turns = [prompt] if isinstance(prompt, str) else [turn["content"] for turn in prompt]
    parts = {"prompt": "".join(turns), **texts}
    return next(
        (
            abstained(Reason.EMPTY_INPUT, f"the {name} is empty")
            for name, text in parts.items()
            if not text.strip()
        ),
        None,
    )


@dataclass(frozen=True)
class Reading:
    """One question's answer, as it was understood."""

    principle: str
    weight: float
    order: Order
    value: float | Abstained
    answer: Answer
    reasoning: str = ""
    usage: Usage = Usage()

    @property
    def by_logprobs(self) -> bool:
        """Whether the answer came with log-probs."""
        return isinstance(self.answer.found, tuple)


@dataclass(frozen=True)
class Outcome:
    """What came of one item: a probability or a score, or why there is none; and what it was made of."""

    item_id: str
    value: float | Abstained
    readings: tuple[Reading, ...]
    hashes: tuple[str, ...]

    @property
    def usage(self) -> Usage:
        """What it cost."""
        return sum((reading.usage for reading in self.readings), Usage())


def read_pair(order: Order, answer: Answer, rules: Rules) -> float | Abstained:
    """P(first response is better) of one order, or why it cannot be told."""
    found = answer.found
    if isinstance(found, Abstained):
        return found
    swapped = order is Order.SWAPPED
    if isinstance(found, int):
        probability = float(found == (1 if swapped else 0))
    else:
        missing = _missing_mass(found, rules.min_option_mass, answer.raw)
        if missing is not None:
            return missing
        probability = labels.first_is_better(found, swapped=swapped)
    return labels.clamp_reasoned(probability) if rules.chain_of_thought else probability


def read_score(answer: Answer, min_option_mass: float) -> float | Abstained:
    """The expected level of one answer, or why it cannot be told."""
    found = answer.found
    if isinstance(found, Abstained):
        return found
    if isinstance(found, int):
        return float(found + 1)
    return _missing_mass(found, min_option_mass, answer.raw) or labels.expected_level(found)


def _missing_mass(logprobs: Sequence[float], least: float, raw: str) -> Abstained | None:
    mass = labels.option_mass(logprobs)
    if mass >= least and mass > 0:
        return None
    said = f"; the answer was {raw!r}" if raw else ""
    return abstained(
        Reason.UNPARSABLE, f"the options have {mass:.3g} of the probability; {least:g} is asked{said}"
    )


def pair_value(readings: Sequence[Reading], rules: Rules) -> float | Abstained:
    """The verdict on a pair: both orders averaged over the principles, or why there is none.

    A principle counts when both of its orders could be read: one order alone would bring back the liking for
    a slot. Where those that do not count have half of the weight or more, the pair has no verdict.
    """
    counted, failure = _counted(readings)
    if failure is not None:
        return failure
    as_given, swapped = (
        labels.weighted_mean(
            [number(reading.value) for reading in counted if reading.order is order],
            [reading.weight for reading in counted if reading.order is order],
        )
        for order in (Order.AS_GIVEN, Order.SWAPPED)
    )
    if labels.orders_disagree(as_given, swapped, rules.disagreement_tolerance):
        message = f"the first response is better with {as_given:.3f} as given and {swapped:.3f} swapped"
        return abstained(Reason.ORDERS_DISAGREE, message)
    probability = labels.both_orders(as_given, swapped)
    if labels.is_tie(probability, rules.tie_band):
        return abstained(Reason.TIE, f"{probability:.4f} lies within {rules.tie_band:g} of 0.5")
    return probability


def score_value(readings: Sequence[Reading]) -> float | Abstained:
    """The score of a response, averaged over the principles that could be read; see pair_value."""
    counted, failure = _counted(readings)
    if failure is not None:
        return failure
    values = [number(reading.value) for reading in counted]
    return labels.weighted_mean(values, [reading.weight for reading in counted])


def number(value: float | Abstained) -> float:
    """The value, which must not be an abstention: NaN must never get here either."""
    if isinstance(value, Abstained) or not math.isfinite(value):
        raise AssertionError(f"no number: {value}")
    return value


def _counted(readings: Sequence[Reading]) -> tuple[list[Reading], Abstained | None]:
    """Readings of the principles all of whose answers could be read; a failure where these are too few."""
    failures = [
        (reading.principle, reading.value) for reading in readings if isinstance(reading.value, Abstained)
    ]
    failed = {principle for principle, _ in failures}
    weights = {reading.principle: reading.weight for reading in readings}
    lost = math.fsum(weights[name] for name in failed)
    if failed and 2 * lost >= math.fsum(weights.values()):
        often = Counter(failure.reason for _, failure in failures).most_common(1)[0][0]
        return [], next(failure for _, failure in failures if failure.reason is often)
    return [reading for reading in readings if reading.principle not in failed], None
