"""The reference service's edge."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc

from services.model_edge import compute_logprobs, load_weights
from services.reference.hosting import Reference
from services.wire import version_to_pb
from trueline.v1 import reference_pb2, reference_pb2_grpc
from trueline.v1 import types_pb2 as pb


class ReferenceServicer(reference_pb2_grpc.ReferenceServiceServicer):
    """The rpcs of trueline.v1.ReferenceService, and the application that the bootstrap runs."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds the rpcs to a server."""
        reference_pb2_grpc.add_ReferenceServiceServicer_to_server(self, server)

    async def start(self) -> None:
        """Loads and follows what the settings say."""
        await self.reference.start()

    async def ComputeLogprobs(
        self, request: reference_pb2.ReferenceServiceComputeLogprobsRequest, context: Any
    ) -> reference_pb2.ReferenceServiceComputeLogprobsResponse:
        """Log-probs of given ids under the reference."""
        reference, response = self.reference, reference_pb2.ReferenceServiceComputeLogprobsResponse
        reply: reference_pb2.ReferenceServiceComputeLogprobsResponse = await compute_logprobs(
            reference.serving, reference.work, reference.logprob_metrics, request, response
        )
        reply.logprob_kind = pb.LOGPROB_KIND_TEMPERATURE
        return reply

    async def LoadWeights(
        self, request: reference_pb2.ReferenceServiceLoadWeightsRequest, context: Any
    ) -> AsyncIterator[reference_pb2.ReferenceServiceLoadWeightsResponse]:
        """Stages, verifies and swaps in a version."""
        response = reference_pb2.ReferenceServiceLoadWeightsResponse
        async for event in load_weights(self.reference.serving, self.reference.fence, request, response):
            yield event

    async def GetReference(
        self, request: reference_pb2.GetReferenceRequest, context: Any
    ) -> reference_pb2.GetReferenceResponse:
        """What this replica serves; all unset while it serves nothing."""
        if self.reference.serving.version is None:
            return reference_pb2.GetReferenceResponse()
        served = self.reference.serving.current()
        return reference_pb2.GetReferenceResponse(
            version=version_to_pb(served.version),
            context_length=served.model.context_length,
            vocabulary_size=served.model.vocabulary_size,
            tokenizer_sha256=served.model.tokenizer_sha256,
        )
