"""The trainer's door: which rollouts may train. Nothing behind it knows that there were others.

A rollout without a usable score is left out BEFORE batching, so that gradient, baseline, whitening and every
mean are as if it had not been there. A batch that cannot be reproduced is refused whole: its log-probs would
be compared with numbers of another distribution, and nobody would notice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from services.errors import FieldError, FieldErrors, PreconditionError
from services.trainer.records import Excluded, ScoredRollout
from services.weights import ModelVersion
from trueline.scoring import LARGEST_SCORE, trains

# Renormalising over the kept tokens may round a log-prob of 0 up by this much.
ROUNDING = 1e-3
FIELD = "batch.rollouts"


@dataclass(frozen=True)
class Door:
    """What a rollout has to fit."""

    version: ModelVersion  # that sampled it: the trained policy's last published one
    vocabulary_size: int
    context_length: int
    max_missing_share: float
    score_clip: float = 0.0  # scores are held within +/- this before they train; 0 is off

    def admit(self, rollouts: Sequence[ScoredRollout]) -> tuple[list[ScoredRollout], list[Excluded]]:
        """The rollouts that train and those left out, in order.

        Raises FieldErrors for what cannot be reproduced, PreconditionError("wrong_version") for rollouts of
        another policy, PreconditionError("too_many_missing") when too many have no score.
        """
        if not rollouts:
            raise FieldError(FIELD, [], "must hold at least one rollout")
        faults = [fault for index, each in enumerate(rollouts) for fault in self._faults(index, each)]
        faults += _mixture_faults(rollouts)
        if faults:
            raise FieldErrors(faults)
        self._check_version(rollouts[0].policy_version)
        found = ((i, score_fault(each, self.score_clip)) for i, each in enumerate(rollouts))
        excluded = [Excluded(i, *fault) for i, fault in found if fault is not None]
        self._check_missing(len(excluded), len(rollouts), excluded)
        out = {row.row for row in excluded}
        return [each for index, each in enumerate(rollouts) if index not in out], excluded

    def _faults(self, index: int, rollout: ScoredRollout) -> Iterator[FieldError]:
        path = f"{FIELD}[{index}]"
        yield from self._id_faults(path, rollout)
        yield from _logprob_faults(path, rollout)
        yield from _sampling_faults(path, rollout)

    def _id_faults(self, path: str, rollout: ScoredRollout) -> Iterator[FieldError]:
        for name in ("prompt_ids", "response_ids"):
            yield from id_faults(f"{path}.{name}", getattr(rollout, name), self.vocabulary_size)
        tokens = len(rollout.prompt_ids) + len(rollout.response_ids)
        if tokens > self.context_length:
            limit = f"prompt and response must fit the context of {self.context_length} tokens"
            yield FieldError(path, tokens, limit)

    def _check_version(self, version: ModelVersion) -> None:
        if version != self.version:
            raise PreconditionError(
                "wrong_version",
                f"{FIELD}: sampled by {version} ({version.sha256 or 'no digest'}); the trained policy's last "
                f"published version is {self.version} ({self.version.sha256})",
            )

    def _check_missing(self, missing: int, rollouts: int, excluded: Sequence[Excluded]) -> None:
        if missing == rollouts or missing / rollouts > self.max_missing_share:
            first = excluded[0]
            raise PreconditionError(
                "too_many_missing",
                f"{missing} of {rollouts} rollouts have no usable score; max_missing_share is "
                f"{self.max_missing_share:g} (row {first.row}: {first.message})",
            )


def score_fault(rollout: ScoredRollout, score_clip: float) -> tuple[str, str] | None:
    """(reason, message) why a rollout cannot train; None when its score is one that losses can square."""
    if rollout.score_fault is not None:
        return rollout.score_fault
    for name in ("score", "raw_score"):
        if not math.isfinite(getattr(rollout, name)):
            return "score_not_finite", f"the {name.replace('_', ' ')} is {getattr(rollout, name)}"
    if not trains(rollout.score, score_clip):
        what = (
            f"is {rollout.score:g}: above {LARGEST_SCORE:g} its square may be infinite; score_clip holds it"
        )
        return "score_not_finite", f"the score {what}"
    return None


def id_faults(path: str, ids: Sequence[int], vocabulary_size: int) -> Iterator[FieldError]:
    """What is wrong with the ids of a sequence."""
    if not ids:
        yield FieldError(path, [], "must hold at least one id")
    elif max(ids) >= vocabulary_size:
        limit = f"ids must be below the vocabulary's size, {vocabulary_size}"
        yield FieldError(path, max(ids), limit)


def logprob_faults(path: str, logprobs: Sequence[float], ids: int) -> Iterator[FieldError]:
    """What is wrong with the log-probs of so many ids."""
    if len(logprobs) != ids:
        yield FieldError(path, f"{len(logprobs)} numbers", f"must hold one number per response id, {ids}")
    bad = next((x for x in logprobs if not (math.isfinite(x) and x <= ROUNDING)), None)
    if bad is not None:
        yield FieldError(path, bad, "must be finite log-probs, at most 0")


def _logprob_faults(path: str, rollout: ScoredRollout) -> Iterator[FieldError]:
    for name in ("policy_logprobs", "reference_logprobs"):
        yield from logprob_faults(f"{path}.{name}", getattr(rollout, name), len(rollout.response_ids))


def _sampling_faults(path: str, rollout: ScoredRollout) -> Iterator[FieldError]:
    kind, temperature = rollout.logprob_kind, rollout.temperature
    if not (math.isfinite(temperature) and temperature > 0):
        yield FieldError(f"{path}.sampling.temperature", temperature, "must be above 0")
    if not 0 < rollout.top_p <= 1:
        yield FieldError(f"{path}.sampling.top_p", rollout.top_p, "must be above 0 and at most 1")
    if kind == "unspecified":
        yield FieldError(f"{path}.logprob_kind", kind, "must be set")
    if kind == "raw" and temperature != 1:
        limit = f"must be temperature or processed where the temperature is {temperature:g}"
        yield FieldError(f"{path}.logprob_kind", kind, limit)
    if (rollout.top_p != 1 or rollout.top_k) and kind != "processed":
        yield FieldError(f"{path}.logprob_kind", kind, "must be processed where top_p or top_k is used")
    if rollout.finish_reason == "unspecified":
        yield FieldError(f"{path}.finish_reason", rollout.finish_reason, "must be set")


def _mixture_faults(rollouts: Sequence[ScoredRollout]) -> Iterator[FieldError]:
    """One temperature and one policy version to a batch."""
    first = rollouts[0]
    for index, each in enumerate(rollouts):
        if each.temperature != first.temperature:
            limit = f"must be one in a batch; rollout 0 has {first.temperature:g}"
            yield FieldError(f"{FIELD}[{index}].sampling.temperature", each.temperature, limit)
        if each.policy_version != first.policy_version:
            limit = f"must be one in a batch; rollout 0 is of {first.policy_version}"
            yield FieldError(f"{FIELD}[{index}].policy_version", str(each.policy_version), limit)
