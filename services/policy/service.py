"""The policy service's edge: prompts in, rollouts out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc

from services.errors import FieldError
from services.model_edge import compute_logprobs, load_weights
from services.policy.door import AskedRow, PromptContent, PromptSamples, check_counts, check_sampling
from services.policy.engine import Completion, FinishReason, GivenLogprobs, LogprobKind, Sampling
from services.policy.hosting import Policy, SampledChunk
from services.wire import expected_version_from_pb, messages_from_pb, timing_to_pb, version_to_pb
from trueline.v1 import policy_pb2, policy_pb2_grpc
from trueline.v1 import types_pb2 as pb

FINISH_REASONS = {
    FinishReason.END_OF_TEXT: pb.FINISH_REASON_END_OF_TEXT,
    FinishReason.STOP_TEXT: pb.FINISH_REASON_STOP_TEXT,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
}
LOGPROB_KINDS = {
    LogprobKind.RAW: pb.LOGPROB_KIND_RAW,
    LogprobKind.TEMPERATURE: pb.LOGPROB_KIND_TEMPERATURE,
    LogprobKind.PROCESSED: pb.LOGPROB_KIND_PROCESSED,
}

GIVEN_LOGPROBS = {
    GivenLogprobs.NONE: policy_pb2.GIVEN_LOGPROBS_NONE,
    GivenLogprobs.TEMPERATURE_ONE: policy_pb2.GIVEN_LOGPROBS_TEMPERATURE_ONE,
    GivenLogprobs.ANY_TEMPERATURE: policy_pb2.GIVEN_LOGPROBS_ANY_TEMPERATURE,
}


class PolicyServicer(policy_pb2_grpc.PolicyServiceServicer):
    """The rpcs of trueline.v1.PolicyService, and the application that the bootstrap runs."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds the rpcs to a server."""
        policy_pb2_grpc.add_PolicyServiceServicer_to_server(self, server)

    async def start(self) -> None:
        """Loads and follows what the settings say."""
        await self.policy.start()

    async def Generate(
        self, request: policy_pb2.GenerateRequest, context: Any
    ) -> policy_pb2.GenerateResponse:
        """Samples one chunk."""
        sampling = sampling_from_pb(request.sampling)
        check_sampling(sampling)
        prompts = [prompt_from_pb(each, f"prompts[{i}]") for i, each in enumerate(request.prompts)]
        check_counts(prompts)
        truncate = truncate_from_pb(request.prompt_overflow)
        expected = expected_version_from_pb(request)
        chunk, timing = await self.policy.generate(prompts, sampling, truncate, expected)
        return chunk_to_pb(chunk, request.sampling, timing_to_pb(timing))

    async def CountPromptTokens(
        self, request: policy_pb2.CountPromptTokensRequest, context: Any
    ) -> policy_pb2.CountPromptTokensResponse:
        """Tokens of each prompt."""
        contents = [content_from_pb(each, f"prompts[{i}]") for i, each in enumerate(request.prompts)]
        counted = await self.policy.count_tokens(contents, expected_version_from_pb(request))
        return policy_pb2.CountPromptTokensResponse(
            tokens=counted.tokens,
            context_length=counted.context_length,
            version=version_to_pb(counted.version),
        )

    async def ComputeLogprobs(
        self, request: policy_pb2.PolicyServiceComputeLogprobsRequest, context: Any
    ) -> policy_pb2.PolicyServiceComputeLogprobsResponse:
        """Log-probs of given ids under the current policy."""
        policy, response = self.policy, policy_pb2.PolicyServiceComputeLogprobsResponse
        reply: policy_pb2.PolicyServiceComputeLogprobsResponse = await compute_logprobs(
            policy.serving, policy.work, policy.logprob_metrics, request, response
        )
        reply.logprob_kind = pb.LOGPROB_KIND_TEMPERATURE
        return reply

    async def LoadWeights(
        self, request: policy_pb2.PolicyServiceLoadWeightsRequest, context: Any
    ) -> AsyncIterator[policy_pb2.PolicyServiceLoadWeightsResponse]:
        """Stages, verifies and swaps in a version."""
        response = policy_pb2.PolicyServiceLoadWeightsResponse
        async for event in load_weights(self.policy.serving, self.policy.fence, request, response):
            yield event

    async def GetPolicy(
        self, request: policy_pb2.GetPolicyRequest, context: Any
    ) -> policy_pb2.GetPolicyResponse:
        """What this replica serves; all unset while it serves nothing."""
        if self.policy.serving.version is None:
            return policy_pb2.GetPolicyResponse()
        served = self.policy.serving.current()
        engine = served.model
        able = engine.capabilities
        return policy_pb2.GetPolicyResponse(
            version=version_to_pb(served.version),
            engine=able.name,
            logprob_kinds=[LOGPROB_KINDS[kind] for kind in able.logprob_kinds],
            hot_swap=able.hot_swap,
            restarts=able.restarts,
            stop_texts=able.stop_texts,
            top_k=able.top_k,
            seeds=able.seeds,
            given_logprobs=GIVEN_LOGPROBS[able.given_logprobs],
            deterministic=able.deterministic,
            context_length=engine.context_length,
            vocabulary_size=engine.vocabulary_size,
            tokenizer_sha256=engine.tokenizer_sha256,
            template_sha256=engine.template_sha256,
            end_of_text_ids=engine.eos_ids,
        )


def sampling_from_pb(message: pb.SamplingParameters) -> Sampling:
    """The record of sampling parameters, unchecked."""
    return Sampling(
        temperature=message.temperature,
        top_p=message.top_p,
        top_k=message.top_k,
        max_new_tokens=message.max_new_tokens,
        stop=tuple(message.stop),
        seed=message.seed,
    )


def prompt_from_pb(message: policy_pb2.PromptSamples, path: str) -> PromptSamples:
    """The rows that share a prompt."""
    content = content_from_pb(message.prompt, f"{path}.prompt")
    return PromptSamples(message.prompt.prompt_id, content, message.first_sample, message.samples)


def content_from_pb(prompt: pb.Prompt, path: str) -> PromptContent:
    """What a prompt says: text, turns, or token ids."""
    kind = prompt.WhichOneof("content")
    if kind is None:
        raise FieldError(path, None, "must be text, conversation or token_ids")
    if kind == "conversation":
        return messages_from_pb(prompt.conversation, f"{path}.conversation")
    return prompt.text if kind == "text" else tuple(prompt.token_ids.ids)


def truncate_from_pb(overflow: int) -> bool:
    """Whether prompts may be cut to fit; FieldError for a word that this version does not know."""
    if overflow not in (policy_pb2.PROMPT_OVERFLOW_UNSPECIFIED, policy_pb2.PROMPT_OVERFLOW_TRUNCATE):
        raise FieldError("prompt_overflow", overflow, "must be PROMPT_OVERFLOW_TRUNCATE or unset")
    return overflow == policy_pb2.PROMPT_OVERFLOW_TRUNCATE


def chunk_to_pb(
    chunk: SampledChunk, sampling: pb.SamplingParameters, timing: pb.Timing
) -> policy_pb2.GenerateResponse:
    """One rollout per row; each says its version, sampling parameters and kind of log-prob."""
    kind, version = LOGPROB_KINDS[chunk.logprob_kind], version_to_pb(chunk.version)
    reply = policy_pb2.GenerateResponse(timing=timing)
    for asked, completion in zip(chunk.rows, chunk.completions, strict=True):
        rollout = rollout_to_pb(asked, completion)
        rollout.logprob_kind = kind
        rollout.policy_version.CopyFrom(version)
        rollout.sampling.CopyFrom(sampling)
        reply.rollouts.append(rollout)
    return reply


def rollout_to_pb(asked: AskedRow, completion: Completion) -> pb.Rollout:
    """What is a row's own."""
    return pb.Rollout(
        prompt_id=asked.prompt_id,
        sample_index=asked.row.sample_index,
        prompt_ids=asked.row.prompt_ids,
        response_ids=completion.response_ids,
        policy_logprobs=completion.logprobs,
        finish_reason=FINISH_REASONS[completion.finish_reason],
        response_text=completion.text,
        prompt_truncated=asked.prompt_truncated,
    )
