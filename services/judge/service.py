"""The judge service's edge: messages become records, outcomes become messages."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

import grpc

from services.judge import wire
from services.judge.asking import Asking
from services.judge.hosting import Judge
from services.model_edge import load_weights
from services.wire import (
    convert_items,
    expected_version_from_pb,
    fingerprint,
    header_from_pb,
    timing_to_pb,
    together,
)
from services.work import Timing
from trueline.v1 import judge_pb2 as pb
from trueline.v1 import judge_pb2_grpc


class JudgeServicer(judge_pb2_grpc.JudgeServiceServicer):
    """The rpcs of trueline.v1.JudgeService, and the application that the bootstrap runs."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds the rpcs to a server."""
        judge_pb2_grpc.add_JudgeServiceServicer_to_server(self, server)

    async def start(self) -> None:
        """Loads and follows what the settings say."""
        await self.judge.start()

    async def Compare(self, request: pb.CompareRequest, context: Any) -> pb.CompareResponse:
        """A verdict per pair."""
        reasoned = request.reading.chain_of_thought
        pairs, selection, rules, sampling = together(
            partial(convert_items, request.items, wire.pair_from_pb, self.judge.settings.max_items),
            partial(wire.selection_from_pb, request.principles),
            partial(wire.rules_from_pb, request.reading),
            partial(wire.sampling_from_pb, request.reasoning if reasoned else _UNREAD, "reasoning"),
        )
        asking = self._asking(request, context)
        outcomes, timing = await self.judge.compare(asking, pairs, selection, rules, sampling)
        return pb.CompareResponse(verdicts=map(wire.verdict_to_pb, outcomes), **_given_by(asking, timing))

    async def Score(self, request: pb.JudgeServiceScoreRequest, context: Any) -> pb.JudgeServiceScoreResponse:
        """A score per response."""
        exchanges, selection, mass = together(
            partial(convert_items, request.items, wire.exchange_from_pb, self.judge.settings.max_items),
            partial(wire.selection_from_pb, request.principles),
            partial(wire.mass_from_pb, request.min_option_mass),
        )
        asking = self._asking(request, context)
        outcomes, timing = await self.judge.score(asking, exchanges, selection, mass)
        return pb.JudgeServiceScoreResponse(
            scores=map(wire.score_to_pb, outcomes), **_given_by(asking, timing)
        )

    async def Critique(self, request: pb.CritiqueRequest, context: Any) -> pb.CritiqueResponse:
        """A critique per response."""
        exchanges, selection, sampling = together(
            partial(convert_items, request.items, wire.exchange_from_pb, self.judge.settings.max_items),
            partial(wire.selection_from_pb, request.principles, one=True),
            partial(wire.sampling_from_pb, request.sampling, "sampling"),
        )
        asking = self._asking(request, context)
        composed, timing = await self.judge.critique(asking, exchanges, selection, sampling)
        return pb.CritiqueResponse(critiques=map(wire.text_to_pb, composed), **_given_by(asking, timing))

    async def Revise(self, request: pb.ReviseRequest, context: Any) -> pb.ReviseResponse:
        """A revision per response."""
        items, selection, sampling = together(
            partial(convert_items, request.items, wire.revisable_from_pb, self.judge.settings.max_items),
            partial(wire.selection_from_pb, request.principles, one=True),
            partial(wire.sampling_from_pb, request.sampling, "sampling"),
        )
        asking = self._asking(request, context)
        composed, timing = await self.judge.revise(asking, items, selection, sampling)
        return pb.ReviseResponse(revisions=map(wire.text_to_pb, composed), **_given_by(asking, timing))

    async def GetConstitution(
        self, request: pb.GetConstitutionRequest, context: Any
    ) -> pb.GetConstitutionResponse:
        """The constitution in force and who reads it."""
        constitution = wire.constitution_to_pb(self.judge.constitution)
        return pb.GetConstitutionResponse(
            constitution=constitution, judge=wire.identity_to_pb(self.judge.identity)
        )

    async def ReloadConstitution(
        self, request: pb.ReloadConstitutionRequest, context: Any
    ) -> pb.ReloadConstitutionResponse:
        """Reads the file again; a repeat of the request gets the stored answer."""
        header = header_from_pb(request.header)
        constitution, changed = await self.judge.fence.run(
            header, self.judge.reload, fingerprint("ReloadConstitution", request)
        )
        return pb.ReloadConstitutionResponse(
            constitution=wire.constitution_to_pb(constitution), changed=changed
        )

    async def LoadWeights(
        self, request: pb.JudgeServiceLoadWeightsRequest, context: Any
    ) -> AsyncGenerator[pb.JudgeServiceLoadWeightsResponse, None]:
        """Swaps in a version of the local model."""
        place, response = self.judge.place(), pb.JudgeServiceLoadWeightsResponse
        async for event in load_weights(place, self.judge.fence, request, response):
            yield event

    def _asking(self, request: Any, context: Any) -> Asking:
        version = expected_version_from_pb(request)
        return self.judge.asking(request.expected_constitution_sha256, version, context.time_remaining())


# Stands for the reasoning's sampling where nobody reasons, since it is not read then.
_UNREAD = pb.JudgeSampling(max_new_tokens=1)


def _given_by(asking: Asking, timing: Timing) -> dict[str, Any]:
    """The parts of every reply that say who judged, and by what."""
    return {
        "judge": wire.identity_to_pb(asking.backend.identity),
        "constitution_sha256": asking.constitution.sha256,
        "timing": timing_to_pb(timing),
    }
