"""The judge's client: verdicts, scores, critiques and revisions by a constitution."""

from __future__ import annotations

from typing import Any

from trueline.calls import OnProgress
from trueline.service_client import QUESTION_DEADLINE, SILENCE, ServiceClient, message_of
from trueline.v1 import judge_pb2, judge_pb2_grpc, types_pb2

# Seconds. A batch at an endpoint that limits its rate takes minutes; what has no answer shortly before the
# deadline comes back as an abstention, not as an error of the call.
JUDGE_DEADLINE = 600.0


class JudgeClient(ServiceClient):
    """Compares, scores, critiques and revises responses.

    async with JudgeClient("localhost:50054") as judge:
        reply = await judge.compare(
            items=[comparison("Where is my parcel?", "Let me look.", "No idea.")],
            principles=judge_pb2.PrincipleSelection(choice=SAMPLED, seed=7),
        )
    for verdict in reply.verdicts:
        print(verdict.probability if verdict.HasField("probability") else verdict.abstention.message)
    """

    SERVICE = judge_pb2.DESCRIPTOR.services_by_name["JudgeService"]
    STUB = judge_pb2_grpc.JudgeServiceStub
    READY_SERVICE = SERVICE.full_name

    async def compare(
        self,
        request: judge_pb2.CompareRequest | None = None,
        *,
        deadline: float | None = None,
        **fields: Any,
    ) -> judge_pb2.CompareResponse:
        """Which response of each pair is better, asked in both orders; 600 s by default.

        Fields: items, principles, reading, reasoning, expected_constitution_sha256, expected_version. The
        reply holds a verdict per item, in order, each a probability or an abstention.
        """
        message = message_of(judge_pb2.CompareRequest, request, fields)
        reply: judge_pb2.CompareResponse = await self._unary("Compare", message, deadline, JUDGE_DEADLINE)
        return reply

    async def score(
        self,
        request: judge_pb2.JudgeServiceScoreRequest | None = None,
        *,
        deadline: float | None = None,
        **fields: Any,
    ) -> judge_pb2.JudgeServiceScoreResponse:
        """How good each response is, from 1 to 10; 600 s by default.

        Fields: items, principles, min_option_mass, expected_constitution_sha256, expected_version.
        """
        message = message_of(judge_pb2.JudgeServiceScoreRequest, request, fields)
        reply: judge_pb2.JudgeServiceScoreResponse = await self._unary(
            "Score", message, deadline, JUDGE_DEADLINE
        )
        return reply

    async def critique(
        self,
        request: judge_pb2.CritiqueRequest | None = None,
        *,
        deadline: float | None = None,
        **fields: Any,
    ) -> judge_pb2.CritiqueResponse:
        """What is wrong with each response; 600 s by default.

        Fields: items, principles, sampling, expected_constitution_sha256, expected_version.
        """
        message = message_of(judge_pb2.CritiqueRequest, request, fields)
        reply: judge_pb2.CritiqueResponse = await self._unary("Critique", message, deadline, JUDGE_DEADLINE)
        return reply

    async def revise(
        self,
        request: judge_pb2.ReviseRequest | None = None,
        *,
        deadline: float | None = None,
        **fields: Any,
    ) -> judge_pb2.ReviseResponse:
        """Each response written anew; 600 s by default.

        Fields: items, principles, sampling, expected_constitution_sha256, expected_version.
        """
        message = message_of(judge_pb2.ReviseRequest, request, fields)
        reply: judge_pb2.ReviseResponse = await self._unary("Revise", message, deadline, JUDGE_DEADLINE)
        return reply

    async def get_constitution(self, *, deadline: float | None = None) -> judge_pb2.GetConstitutionResponse:
        """What the replica that happens to answer goes by; 10 s by default. Ask each through `direct`."""
        reply: judge_pb2.GetConstitutionResponse = await self._unary(
            "GetConstitution", judge_pb2.GetConstitutionRequest(), deadline, QUESTION_DEADLINE
        )
        return reply

    async def reload_constitution(
        self,
        request: judge_pb2.ReloadConstitutionRequest | None = None,
        *,
        deadline: float | None = None,
        **fields: Any,
    ) -> judge_pb2.ReloadConstitutionResponse:
        """Has one replica read its file again; only on a `direct` client; 10 s by default. Fields: header."""
        self._require_direct("reload_constitution")
        message = message_of(judge_pb2.ReloadConstitutionRequest, request, fields)
        reply: judge_pb2.ReloadConstitutionResponse = await self._unary(
            "ReloadConstitution", message, deadline, QUESTION_DEADLINE
        )
        return reply

    async def load_weights(
        self,
        request: judge_pb2.JudgeServiceLoadWeightsRequest | None = None,
        *,
        silence: float = SILENCE,
        on_progress: OnProgress | None = None,
        **fields: Any,
    ) -> types_pb2.LoadedModel:
        """Has one replica serve a version of a local judge; only on a `direct` client.

        Fields: header, location.
        """
        message = message_of(judge_pb2.JudgeServiceLoadWeightsRequest, request, fields)
        return await self._load_weights(message, silence, on_progress)
