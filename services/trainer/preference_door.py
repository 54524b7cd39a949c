"""The door of preference learning: which pairs may train. Nothing behind it knows that there were others.

A pair without a usable preference (missing, NaN, a judge that abstained) is left out BEFORE batching, as are
pairs that cannot be learned from, each with its reason. What cannot be reproduced refuses the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from services.errors import FieldError, FieldErrors, PreconditionError
from services.templates import TemplateError, render_exchange, render_last_message, render_text
from services.trainer.door import id_faults, logprob_faults
from services.trainer.preference_records import (
    NO_VERSION,
    PreferencePair,
    SampledPair,
    SampledResponse,
    Side,
    TrainingPair,
    WrittenPair,
)
from services.trainer.preference_settings import PreferenceSettings
from services.trainer.records import Excluded
from services.weights import ModelVersion

FIELD = "batch.pairs"


class PairError(ValueError):
    """A pair that cannot be learned from; `reason` is a short stable word."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


@dataclass(frozen=True)
class PreferenceDoor:
    """What a pair has to fit."""

    settings: PreferenceSettings
    tokenizer: Any
    vocabulary_size: int
    masked_ids: frozenset[int]
    reference: ModelVersion | None  # of the frozen copy in the trainer, where it holds one

    def admit(self, pairs: Sequence[PreferencePair]) -> tuple[list[TrainingPair], list[Excluded]]:
        """The pairs that train and those left out, in order.

        Raises FieldErrors for what is malformed or cannot be reproduced, PreconditionError(
        "too_many_missing") when too many have no preference.
        """
        if not pairs:
            raise FieldError(FIELD, [], "must hold at least one pair")
        faults = [fault for index, pair in enumerate(pairs) for fault in self._faults(index, pair)]
        faults += self._mixture_faults(pairs)
        if faults:
            raise FieldErrors(faults)
        missing = {i: fault for i, pair in enumerate(pairs) if (fault := preference_fault(pair))}
        self._check_missing(missing, len(pairs))
        admitted, excluded = [], []
        for index, pair in enumerate(pairs):
            try:
                if index in missing:
                    raise PairError(*missing[index])
                admitted.append(self._training_pair(pair))
            except PairError as error:
                excluded.append(Excluded(index, error.reason, str(error)))
        return admitted, excluded

    def _faults(self, index: int, pair: PreferencePair) -> Iterator[FieldError]:
        path = f"{FIELD}[{index}]"
        if math.isfinite(pair.probability) and not 0 <= pair.probability <= 1:
            yield FieldError(f"{path}.probability", pair.probability, "must be from 0 to 1")
        if not (math.isfinite(pair.weight) and pair.weight > 0):
            yield FieldError(f"{path}.weight", pair.weight, "must be a finite number above 0")
        if not (math.isfinite(pair.margin) and pair.margin >= 0):
            yield FieldError(f"{path}.margin", pair.margin, "must be finite and at least 0")
        elif pair.margin and not self.settings.loss_row.margin:
            yield FieldError(f"{path}.margin", pair.margin, f"must be 0: {self.settings.loss} takes none")
        if isinstance(pair.responses, SampledPair):
            yield from self._sampled_faults(f"{path}.sampled", pair.responses)
        elif self._needs_given_reference:
            limit = f"must be sampled, with reference log-probs: {self._why_given}"
            yield FieldError(f"{path}.responses", "written", limit)

    @property
    def _needs_given_reference(self) -> bool:
        return self.settings.loss_row.reference and self.reference is None

    @property
    def _why_given(self) -> str:
        return f"{self.settings.loss} compares with a reference, and the stage has no MODEL_ROLE_REFERENCE"

    def _sampled_faults(self, path: str, pair: SampledPair) -> Iterator[FieldError]:
        for name in ("first", "second"):
            yield from self._side_faults(f"{path}.{name}", getattr(pair, name))
        if pair.first.prompt_ids != pair.second.prompt_ids:
            limit = "must be those of the first side"
            yield FieldError(f"{path}.second.prompt_ids", pair.second.prompt_ids, limit)

    def _side_faults(self, path: str, side: SampledResponse) -> Iterator[FieldError]:
        for name in ("prompt_ids", "response_ids"):
            yield from id_faults(f"{path}.{name}", getattr(side, name), self.vocabulary_size)
        if side.temperature != self.settings.temperature:
            limit = f"must be the stage's temperature, {self.settings.temperature:g}"
            yield FieldError(f"{path}.sampling.temperature", side.temperature, limit)
        yield from self._reference_faults(f"{path}.reference_logprobs", side)

    def _reference_faults(self, path: str, side: SampledResponse) -> Iterator[FieldError]:
        if side.reference_logprobs:
            yield from logprob_faults(path, side.reference_logprobs, len(side.response_ids))
        elif self._needs_given_reference:
            yield FieldError(path, [], f"must hold one number per response id: {self._why_given}")

    def _mixture_faults(self, pairs: Sequence[PreferencePair]) -> Iterator[FieldError]:
        """One reference to a batch: the trainer's own where it holds one."""
        expected = self.reference
        for index, pair in enumerate(pairs):
            if not isinstance(pair.responses, SampledPair):
                continue
            for name in ("first", "second"):
                side: SampledResponse = getattr(pair.responses, name)
                if not side.reference_logprobs:
                    continue
                expected = expected or side.reference_version
                if side.reference_version != expected:
                    path = f"{FIELD}[{index}].sampled.{name}.reference_version"
                    limit = f"must be one in a batch, and the stage's own where it has one: {expected}"
                    yield FieldError(path, _named(side.reference_version), limit)

    def _check_missing(self, missing: dict[int, tuple[str, str]], pairs: int) -> None:
        limit = self.settings.max_missing_share
        if len(missing) == pairs or len(missing) / pairs > limit:
            row, (_, message) = next(iter(missing.items()))
            raise PreconditionError(
                "too_many_missing",
                f"{len(missing)} of {pairs} pairs have no usable preference; max_missing_share is "
                f"{limit:g} (row {row}: {message})",
            )

    def _training_pair(self, pair: PreferencePair) -> TrainingPair:
        """The pair as it trains. Raises PairError when it cannot be learned from."""
        prompt, first, second = self._encoded(pair.responses)
        if first.ids == second.ids:
            raise PairError("identical", "both responses are the same")
        if pair.probability == 0.5 and not self.settings.loss_row.soft:
            raise PairError("tie", f"neither response is the better one, which {self.settings.loss} needs")
        swap = pair.probability < 0.5
        chosen, rejected = (second, first) if swap else (first, second)
        probability = 1 - pair.probability if swap else pair.probability
        found = TrainingPair(prompt, chosen, rejected, probability, pair.margin, pair.weight)
        self._check_learnable(found)
        return found

    def _check_learnable(self, pair: TrainingPair) -> None:
        limit = self.settings.max_tokens
        if not pair.prompt:
            raise PairError("empty", "the prompt holds no token")
        if pair.longest > limit:
            message = f"prompt and longer response hold {pair.longest} tokens; the limit is {limit}"
            raise PairError("too_long", message)
        if not all(side.loss_tokens for side in pair.sides):
            raise PairError("empty", "a response holds no token that bears loss")

    def _encoded(self, responses: SampledPair | WrittenPair) -> tuple[list[int], Side, Side]:
        if isinstance(responses, SampledPair):
            first, second = responses.first, responses.second
            sides = [self._side(each.response_ids, each.reference_logprobs) for each in (first, second)]
            return first.prompt_ids, sides[0], sides[1]
        try:
            prompt, first_ids = written_ids(self.tokenizer, responses, responses.first)
            _, second_ids = written_ids(self.tokenizer, responses, responses.second)
        except TemplateError as error:
            raise PairError("template_failed", str(error)) from None
        return prompt, self._side(first_ids, []), self._side(second_ids, [])

    def _side(self, ids: list[int], reference_logprobs: list[float]) -> Side:
        given = reference_logprobs if self.settings.loss_row.reference else []
        return Side(ids, [token not in self.masked_ids for token in ids], given)


def preference_fault(pair: PreferencePair) -> tuple[str, str] | None:
    """(reason, message) why a pair has no preference; None when it has one."""
    if pair.fault is not None:
        return pair.fault
    if not math.isfinite(pair.probability):
        return "preference_not_finite", f"the probability is {pair.probability}"
    return None


def written_ids(tokenizer: Any, pair: WrittenPair, response: str) -> tuple[list[int], list[int]]:
    """(prompt ids, response ids) of a text as a policy would read and write it, the end token included.

    Raises TemplateError.
    """
    if isinstance(pair.prompt, str):
        prompt = render_text(tokenizer, pair.prompt)
        return prompt, render_exchange(tokenizer, pair.prompt, response)[len(prompt) :]
    turns = [*pair.prompt, {"role": "assistant", "content": response}]
    ids, said = render_last_message(tokenizer, turns)
    start = said.index(True)
    return ids[:start], ids[start:]


def masked_ids(tokenizer: Any, tokens: Sequence[str], field: str) -> frozenset[int]:
    """Ids of tokens by name. Raises FieldErrors for those that the tokenizer does not know."""
    known = tokenizer.get_vocab()
    faults = [
        FieldError(f"{field}[{place}]", token, "must be a token of the trained model's tokenizer")
        for place, token in enumerate(tokens)
        if token not in known
    ]
    if faults:
        raise FieldErrors(faults)
    return frozenset(known[token] for token in tokens)


def _named(version: ModelVersion) -> str:
    return "unset" if version == NO_VERSION else f"{version} ({version.sha256})"
