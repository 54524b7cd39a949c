"""Between the messages of preference learning and its records. Used by service.py alone, as wire.py is."""

from __future__ import annotations

from services.errors import FieldError
from services.trainer.preference_records import PreferencePair, SampledPair, SampledResponse, WrittenPair
from services.wire import convert_each, prompt_from_pb, version_from_pb
from trueline.v1 import trainer_pb2, types_pb2


def pairs_from_pb(batch: trainer_pb2.PreferenceBatch) -> list[PreferencePair]:
    """Pairs, unchecked but for their shape: the door checks them. Raises FieldErrors."""
    return convert_each("batch.pairs", batch.pairs, _pair_from_pb)


def _pair_from_pb(pair: trainer_pb2.PreferencePair, field: str) -> PreferencePair:
    weight = pair.weight if pair.HasField("weight") else 1.0
    responses = _responses_from_pb(pair, field)
    which = pair.WhichOneof("preference")
    if which == "probability":
        return PreferencePair(responses, pair.probability, None, pair.margin, weight)
    if which == "error":
        said = f"{pair.error.reason}: {pair.error.message}"
        fault = "preference_failed", f"nothing says which is better ({said})"
    else:
        fault = "preference_missing", "the pair has no preference"
    return PreferencePair(responses, fault=fault, margin=pair.margin, weight=weight)


def _responses_from_pb(pair: trainer_pb2.PreferencePair, field: str) -> SampledPair | WrittenPair:
    which = pair.WhichOneof("responses")
    if which is None:
        raise FieldError(f"{field}.responses", None, "must be written or sampled")
    if which == "sampled":
        return SampledPair(_sampled_from_pb(pair.sampled.first), _sampled_from_pb(pair.sampled.second))
    written = pair.written
    return WrittenPair(prompt_from_pb(written, f"{field}.written"), written.first, written.second)


def _sampled_from_pb(rollout: types_pb2.Rollout) -> SampledResponse:
    return SampledResponse(
        prompt_ids=list(rollout.prompt_ids),
        response_ids=list(rollout.response_ids),
        temperature=rollout.sampling.temperature,
        reference_logprobs=list(rollout.reference_logprobs),
        reference_version=version_from_pb(rollout.reference_version),
    )
