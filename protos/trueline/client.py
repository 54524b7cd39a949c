"""The clients: one class per service, one typed method per rpc.

A method takes a request message, or its fields as keywords, and returns the response message:

    async with PolicyClient(["10.0.0.5:50051", "10.0.0.6:50051"]) as policy:
        reply = await policy.generate(prompts=[...], sampling=SamplingParameters(temperature=1.0, ...))

Errors are CallError. Every unary call has a deadline in seconds (the method's default, the client's, or the
call's); a long step streams progress, and its deadline is on silence. Idempotent calls are tried again on
UNAVAILABLE, mutating ones never: their caller repeats them under the same request id.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from trueline.calls import OnProgress
from trueline.scoring import Item, score_items
from trueline.service_client import QUESTION_DEADLINE, ServiceClient, message_of
from trueline.v1 import (
    policy_pb2,
    policy_pb2_grpc,
    reference_pb2,
    reference_pb2_grpc,
    reward_pb2,
    reward_pb2_grpc,
    types_pb2,
)

# Default deadlines in seconds. A chunk on a slow CPU takes minutes.
GENERATE_DEADLINE = 600.0
LOGPROBS_DEADLINE = 300.0
SCORE_DEADLINE = 120.0


class PolicyClient(ServiceClient):
    """Samples completions."""

    SERVICE = policy_pb2.DESCRIPTOR.services_by_name["PolicyService"]
    STUB = policy_pb2_grpc.PolicyServiceStub
    READY_SERVICE = SERVICE.full_name

    async def generate(
        self,
        request: policy_pb2.GenerateRequest | None = None,
        *,
        deadline: float | None = None,
        **fields: Any,
    ) -> policy_pb2.GenerateResponse:
        """Samples one chunk; 600 s by default.

        Fields: prompts, sampling, expected_version, prompt_overflow.
        """
        message = message_of(policy_pb2.GenerateRequest, request, fields)
        reply: policy_pb2.GenerateResponse = await self._unary(
            "Generate", message, deadline, GENERATE_DEADLINE
        )
        return reply

    async def compute_logprobs(
        self,
        request: policy_pb2.PolicyServiceComputeLogprobsRequest | None = None,
        *,
        deadline: float | None = None,
        **fields: Any,
    ) -> policy_pb2.PolicyServiceComputeLogprobsResponse:
        """Log-probs of given ids, in nats; 300 s by default. Fields: rows, temperature, expected_version."""
        message = message_of(policy_pb2.PolicyServiceComputeLogprobsRequest, request, fields)
        reply: policy_pb2.PolicyServiceComputeLogprobsResponse = await self._unary(
            "ComputeLogprobs", message, deadline, LOGPROBS_DEADLINE
        )
        return reply

    async def get_policy(self, *, deadline: float | None = None) -> policy_pb2.GetPolicyResponse:
        """What the replica that happens to answer serves; 10 s by default. Ask each one through `direct`."""
        reply: policy_pb2.GetPolicyResponse = await self._unary(
            "GetPolicy", policy_pb2.GetPolicyRequest(), deadline, QUESTION_DEADLINE
        )
        return reply

    async def load_weights(
        self,
        request: policy_pb2.PolicyServiceLoadWeightsRequest | None = None,
        *,
        silence: float | None = None,
        on_progress: OnProgress | None = None,
        **fields: Any,
    ) -> types_pb2.LoadedModel:
        """Has one replica serve a version; only on a `direct` client. Fields: header, location."""
        message = message_of(policy_pb2.PolicyServiceLoadWeightsRequest, request, fields)
        return await self._load_weights(message, silence, on_progress)


class ReferenceClient(ServiceClient):
    """Log-probs under the frozen reference."""

    SERVICE = reference_pb2.DESCRIPTOR.services_by_name["ReferenceService"]
    STUB = reference_pb2_grpc.ReferenceServiceStub
    READY_SERVICE = SERVICE.full_name

    async def compute_logprobs(
        self,
        request: reference_pb2.ReferenceServiceComputeLogprobsRequest | None = None,
        *,
        deadline: float | None = None,
        **fields: Any,
    ) -> reference_pb2.ReferenceServiceComputeLogprobsResponse:
        """Log-probs of given ids, in nats; 300 s by default. Fields: rows, temperature, expected_version."""
        message = message_of(reference_pb2.ReferenceServiceComputeLogprobsRequest, request, fields)
        reply: reference_pb2.ReferenceServiceComputeLogprobsResponse = await self._unary(
            "ComputeLogprobs", message, deadline, LOGPROBS_DEADLINE
        )
        return reply

    async def get_reference(self, *, deadline: float | None = None) -> reference_pb2.GetReferenceResponse:
        """What the replica that happens to answer serves; 10 s by default. Ask each one through `direct`."""
        reply: reference_pb2.GetReferenceResponse = await self._unary(
            "GetReference", reference_pb2.GetReferenceRequest(), deadline, QUESTION_DEADLINE
        )
        return reply

    async def load_weights(
        self,
        request: reference_pb2.ReferenceServiceLoadWeightsRequest | None = None,
        *,
        silence: float | None = None,
        on_progress: OnProgress | None = None,
        **fields: Any,
    ) -> types_pb2.LoadedModel:
        """Has one replica serve a version; only on a `direct` client. Fields: header, location."""
        message = message_of(reference_pb2.ReferenceServiceLoadWeightsRequest, request, fields)
        return await self._load_weights(message, silence, on_progress)


class RewardClient(ServiceClient):
    """Scores responses: the client that other systems use.

    async with RewardClient("localhost:50053") as reward:
        reply = await reward.score("helpfulness", [("Where is my parcel?", "Let me look that up for you.")])
    for score in reply.scores:
        print(score.value.raw if score.HasField("value") else score.error.message)
    """

    SERVICE = reward_pb2.DESCRIPTOR.services_by_name["RewardService"]
    STUB = reward_pb2_grpc.RewardServiceStub
    READY_SERVICE = SERVICE.full_name

    async def score(
        self,
        scorer: str | reward_pb2.ScoreRequest = "",
        items: Iterable[Item] = (),
        *,
        expected_version: types_pb2.ModelVersion | None = None,
        deadline: float | None = None,
    ) -> reward_pb2.ScoreResponse:
        """Scores (prompt, response) pairs with one scorer; 120 s by default.

        A prompt is text or messages ([{"role": "user", "content": "..."}]); "" as scorer is the only one
        hosted. The reply holds a score per item, in order, each a value or an error. A ScoreRequest is
        taken as it stands.
        """
        if isinstance(scorer, str):
            request = reward_pb2.ScoreRequest(
                scorer=scorer, items=score_items(items), expected_version=expected_version
            )
        else:
            given = {"items": items, "expected_version": expected_version}
            request = message_of(
                reward_pb2.ScoreRequest, scorer, {name: value for name, value in given.items() if value}
            )
        reply: reward_pb2.ScoreResponse = await self._unary("Score", request, deadline, SCORE_DEADLINE)
        return reply

    async def list_scorers(self, *, deadline: float | None = None) -> reward_pb2.ListScorersResponse:
        """The scorers hosted, by name; 10 s by default."""
        reply: reward_pb2.ListScorersResponse = await self._unary(
            "ListScorers", reward_pb2.ListScorersRequest(), deadline, QUESTION_DEADLINE
        )
        return reply

    async def load_weights(
        self,
        request: reward_pb2.RewardServiceLoadWeightsRequest | None = None,
        *,
        silence: float | None = None,
        on_progress: OnProgress | None = None,
        **fields: Any,
    ) -> types_pb2.LoadedModel:
        """Has one replica serve a version of a scorer; only on a `direct` client.

        Fields: header, scorer, location.
        """
        message = message_of(reward_pb2.RewardServiceLoadWeightsRequest, request, fields)
        return await self._load_weights(message, silence, on_progress)
