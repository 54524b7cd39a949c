"""Between the judge's messages and its records. Faults of a request are all told at once."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, TypeVar

from services.errors import FieldError
from services.judge import labels
from services.judge.asking import Composed, Revisable
from services.judge.constitution import Constitution
from services.judge.principles import Choice, Selection
from services.judge.records import Abstained, Identity, Sampling, Usage
from services.judge.verdicts import Exchange, Order, Outcome, Pair, Reading, Rules
from services.wire import item_prompt_from_pb, version_to_pb
from trueline.v1 import judge_pb2 as pb

Record = TypeVar("Record")

CHOICES = {pb.PRINCIPLE_CHOICE_SAMPLED: Choice.SAMPLED, pb.PRINCIPLE_CHOICE_ENSEMBLE: Choice.ENSEMBLE}
ORDERS = {
    Order.NONE: pb.ORDER_UNSPECIFIED,
    Order.AS_GIVEN: pb.ORDER_AS_GIVEN,
    Order.SWAPPED: pb.ORDER_SWAPPED,
}


def pair_from_pb(item: pb.ComparisonItem, field: str) -> Pair:
    """A pair to compare."""
    return Pair(item.item_id, item_prompt_from_pb(item, field), item.first, item.second)


def exchange_from_pb(item: pb.JudgedResponse, field: str) -> Exchange:
    """A response to judge."""
    return Exchange(item.item_id, item_prompt_from_pb(item, field), item.response)


def revisable_from_pb(item: pb.RevisionItem, field: str) -> Revisable:
    """A response to write anew."""
    return Revisable(exchange_from_pb(item.judged, f"{field}.judged"), item.critique, item.principle)


def selection_from_pb(selection: pb.PrincipleSelection, *, one: bool = False) -> Selection:
    """Which principles judge; with `one`, an ensemble is refused."""
    allowed = {
        number: choice for number, choice in CHOICES.items() if not (one and choice is Choice.ENSEMBLE)
    }
    if selection.choice not in allowed:
        words = " or ".join(pb.PrincipleChoice.Name(number) for number in allowed)
        raise FieldError("principles.choice", _choice_name(selection.choice), f"must be {words}")
    return Selection(allowed[selection.choice], tuple(selection.names), tuple(selection.tags), selection.seed)


def _choice_name(number: int) -> str | int:
    return pb.PrincipleChoice.Name(number) if number in pb.PrincipleChoice.values() else number


def rules_from_pb(rules: pb.ReadingRules) -> Rules:
    """How answers are read."""
    _within("reading.min_option_mass", rules.min_option_mass, 1.0)
    _within("reading.disagreement_tolerance", rules.disagreement_tolerance, 1.0)
    # Behind reasoning no probability leaves the clamp, and a band as wide as that calls everything a tie.
    widest = 0.5 - labels.REASONED_LOW if rules.chain_of_thought else 0.5
    if not 0 <= rules.tie_band < widest - 1e-12:
        raise FieldError("reading.tie_band", rules.tie_band, f"must be at least 0 and below {widest:g}")
    return Rules(rules.min_option_mass, rules.tie_band, rules.disagreement_tolerance, rules.chain_of_thought)


def mass_from_pb(mass: float) -> float:
    """JudgeServiceScoreRequest.min_option_mass."""
    _within("min_option_mass", mass, 1.0)
    return mass


def _within(field: str, value: float, highest: float) -> None:
    if not 0 <= value <= highest:
        raise FieldError(field, value, f"must be from 0 to {highest:g}")


def sampling_from_pb(sampling: pb.JudgeSampling, field: str) -> Sampling:
    """How texts are written."""
    if not (math.isfinite(sampling.temperature) and sampling.temperature >= 0):
        raise FieldError(
            f"{field}.temperature", sampling.temperature, "must be a finite number of at least 0"
        )
    if sampling.max_new_tokens < 1:
        raise FieldError(f"{field}.max_new_tokens", sampling.max_new_tokens, "must be at least 1")
    return Sampling(sampling.temperature, sampling.max_new_tokens, sampling.seed)


def usage_to_pb(usage: Usage) -> pb.JudgeUsage:
    """The message of a cost."""
    return pb.JudgeUsage(
        calls=usage.calls,
        uncounted_calls=usage.uncounted_calls,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
    )


def abstention_to_pb(why: Abstained) -> pb.Abstention:
    """The message of an abstention."""
    reason: Any = pb.AbstentionReason.Value(f"ABSTENTION_REASON_{why.reason.name}")
    return pb.Abstention(reason=reason, message=why.message)


def reading_to_pb(reading: Reading) -> pb.Reading:
    """The message of one question and its answer."""
    answer, found = reading.answer, reading.answer.found
    logprobs = found if isinstance(found, tuple) else ()
    evidence = pb.EVIDENCE_TEXT if isinstance(found, int) else pb.EVIDENCE_UNSPECIFIED
    message = pb.Reading(
        principle=reading.principle,
        order=ORDERS[reading.order],
        evidence=pb.EVIDENCE_LOGPROBS if logprobs else evidence,
        option_logprobs=logprobs,
        option_mass=labels.option_mass(logprobs),
        raw=answer.raw,
        reasoning=reading.reasoning,
        revision=answer.revision,
        usage=usage_to_pb(reading.usage),
    )
    if isinstance(reading.value, Abstained):
        message.abstention.CopyFrom(abstention_to_pb(reading.value))
    else:
        message.value = reading.value
    return message


def verdict_to_pb(outcome: Outcome) -> pb.Verdict:
    """The message of a pair's outcome."""
    prompt, first, second = outcome.hashes
    verdict = pb.Verdict(
        item_id=outcome.item_id,
        principles=_names(outcome.readings),
        readings=map(reading_to_pb, outcome.readings),
        prompt_sha256=prompt,
        first_sha256=first,
        second_sha256=second,
        usage=usage_to_pb(outcome.usage),
    )
    if isinstance(outcome.value, Abstained):
        verdict.abstention.CopyFrom(abstention_to_pb(outcome.value))
    else:
        verdict.probability = outcome.value
    return verdict


def score_to_pb(outcome: Outcome) -> pb.JudgeScore:
    """The message of a response's score."""
    prompt, response = outcome.hashes
    score = pb.JudgeScore(
        item_id=outcome.item_id,
        principles=_names(outcome.readings),
        readings=map(reading_to_pb, outcome.readings),
        prompt_sha256=prompt,
        response_sha256=response,
        usage=usage_to_pb(outcome.usage),
    )
    if isinstance(outcome.value, Abstained):
        score.abstention.CopyFrom(abstention_to_pb(outcome.value))
    else:
        score.score = outcome.value
    return score


def _names(readings: Iterable[Reading]) -> list[str]:
    return list(dict.fromkeys(reading.principle for reading in readings))


def text_to_pb(composed: Composed) -> pb.JudgeText:
    """The message of a critique or a revision."""
    written = composed.written
    prompt, response = composed.exchange.hashes
    message = pb.JudgeText(
        item_id=composed.exchange.item_id,
        principle=composed.principle,
        truncated=written.truncated,
        prompt_sha256=prompt,
        response_sha256=response,
        revision=written.revision,
        usage=usage_to_pb(written.usage),
    )
    if isinstance(written.text, Abstained):
        message.abstention.CopyFrom(abstention_to_pb(written.text))
    else:
        message.text = written.text
    return message


def identity_to_pb(identity: Identity) -> pb.JudgeModel:
    """The message of who judges."""
    return pb.JudgeModel(
        model=identity.model,
        version=version_to_pb(identity.version) if identity.version else None,
        endpoint=identity.endpoint,
        tokenizer_sha256=identity.tokenizer_sha256,
        template_sha256=identity.template_sha256,
    )


def constitution_to_pb(constitution: Constitution) -> pb.Constitution:
    """The message of a constitution."""
    principles = [
        pb.Principle(
            name=each.name,
            compare=each.compare,
            score=each.score,
            critique=each.critique,
            revision=each.revision,
            weight=each.weight,
            tags=each.tags,
        )
        for each in constitution.principles
    ]
    return pb.Constitution(name=constitution.name, sha256=constitution.sha256, principles=principles)
