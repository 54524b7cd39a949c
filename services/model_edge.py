"""What the edges of services that hold a model share: LoadWeights and ComputeLogprobs, message by message.

The methods of two services differ in the type of their messages only, so these functions take that type.
"""

import dataclasses
import math
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from prometheus_client import CollectorRegistry

from services.checks import check_rows, check_temperature
from services.errors import FieldError, PreconditionError
from services.exported import exported
from services.fence import CallHeader, Fence
from services.progress import Finished, ProgressFeed
from services.serving_model import LoadedVersion, ServingModel
from services.weights import DAMAGED, ModelVersion, WeightsDamaged, WeightsError
from services.wire import (
    expected_version_from_pb,
    fingerprint,
    header_from_pb,
    loaded_to_pb,
    location_from_pb,
    progress_to_pb,
    require_version,
    timing_to_pb,
    version_to_pb,
)
from services.work import Work


class ScorerModel(Protocol):
    """A model that gives log-probs: the policy's engine, the reference."""

    vocabulary_size: int
    context_length: int

    def compute_logprobs(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], temperature: float
    ) -> list[list[float]]:
        """Log-prob of each response id, in nats, under logits / temperature."""


async def load_weights(
    serving: ServingModel[Any], fence: Fence, request: Any, response: type[Any]
) -> AsyncIterator[Any]:
    """The stream of a LoadWeights call. A failed load is the caller's error; the old version serves on.

    A repeat joins the load that runs. It is answered from memory only while nothing else was loaded since,
    for a caller that asks for a version again wants it served, not remembered.
    """
    expected, path = location_from_pb(request.location)
    header = header_from_pb(request.header)

    async def step(progress: ProgressFeed) -> LoadedVersion:
        try:
            return await serving.load(path, expected, progress)
        except WeightsError as error:
            limit = f"{error}; still serving {serving.version or 'nothing'}"
            reason = DAMAGED if isinstance(error, WeightsDamaged) else ""
            raise FieldError("location.uri", request.location.uri, limit, reason) from error

    named = _named_for(header, serving)
    async for event in fence.stream(named, step, fingerprint("LoadWeights", request)):
        if isinstance(event, Finished):
            loaded = event.result
            yield response(loaded=loaded_to_pb(loaded.version, loaded.bytes, loaded.seconds))
        else:
            yield response(progress=progress_to_pb(event))


def _named_for(header: CallHeader, serving: ServingModel[Any]) -> CallHeader:
    """The header with what is served in its request id; an empty id stays empty, for the fence to refuse."""
    if not header.request_id:
        return header
    return dataclasses.replace(header, request_id=f"{header.request_id}#{serving.swaps}")


class LogprobMetrics:
    """What ComputeLogprobs shows on /metrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.tokens = exported("trueline_logprob_tokens_total", registry)


async def compute_logprobs(
    serving: ServingModel[ScorerModel],
    work: Work,
    metrics: LogprobMetrics,
    request: Any,
    response: type[Any],
) -> Any:
    """The answer to a ComputeLogprobs call, of exactly one version; `logprob_kind` is left to the caller."""
    check_temperature(request.temperature, "temperature")
    expected = expected_version_from_pb(request)
    prompts = [list(row.prompt_ids) for row in request.rows]
    responses = [list(row.response_ids) for row in request.rows]

    def answer() -> tuple[ModelVersion, list[list[float]]]:
        served = serving.current()
        require_version(expected, served.version)
        check_rows(prompts, responses, served.model.vocabulary_size, served.model.context_length)
        return served.version, served.model.compute_logprobs(prompts, responses, request.temperature)

    (version, results), timing = await work.run(answer)
    reply = response(version=version_to_pb(version), timing=timing_to_pb(timing))
    for index, logprobs in enumerate(results):
        if not math.isfinite(sum(logprobs)):
            raise PreconditionError(
                "non_finite", f"rows[{index}]: {version} gives a log-prob that is no number"
            )
        reply.results.add(logprobs=logprobs)
    metrics.tokens.inc(sum(map(len, responses)))
    return reply
