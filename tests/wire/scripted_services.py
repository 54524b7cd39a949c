"""Real gRPC servers whose services follow a script: what the wire tests call."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from trueline.channel import MESSAGE_LIMIT_BYTES
from trueline.v1 import (
    policy_pb2,
    policy_pb2_grpc,
    reward_pb2,
    reward_pb2_grpc,
    trainer_pb2,
    trainer_pb2_grpc,
    types_pb2,
)

REWARD = "trueline.v1.RewardService"


class Script:
    """What a scripted service saw, and how it is to behave.

    refuse       answers that many calls with UNAVAILABLE before it answers one
    reply_bytes  padding of the reply, to make it large
    abort        awaited with the call's context, to end it or delay it
    """

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.calls: list[str] = []
        self.metadata: list[dict[str, str]] = []
        self.requests: list[Any] = []
        self.refuse = 0
        self.reply_bytes = 0
        self.abort: Any = None

    async def saw(self, method: str, request: Any, context: Any) -> None:
        """Notes the call; refuses or aborts it where the script says so."""
        self.calls.append(method)
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        if self.abort is not None:
            await self.abort(context)
        if self.refuse > 0:
            self.refuse -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "come back later")


class ScriptedReward(reward_pb2_grpc.RewardServiceServicer):
    """Scores a response by its length; an empty one is an error of its item."""

    def __init__(self, script: Script) -> None:
        self.script = script

    async def Score(self, request: reward_pb2.ScoreRequest, context: Any) -> reward_pb2.ScoreResponse:
        await self.script.saw("Score", request, context)
        scorer = reward_pb2.Scorer(name=self.script.name, function="x" * self.script.reply_bytes)
        return reward_pb2.ScoreResponse(scores=[_score(item) for item in request.items], scorer=scorer)

    async def ListScorers(self, request: Any, context: Any) -> reward_pb2.ListScorersResponse:
        await self.script.saw("ListScorers", request, context)
        rule = reward_pb2.Scorer(name="length", kind=reward_pb2.SCORER_KIND_RULE, function="builtins:len")
        learned = reward_pb2.Scorer(name="proxy", kind=reward_pb2.SCORER_KIND_LEARNED, context_length=128)
        return reward_pb2.ListScorersResponse(scorers=[rule, learned])

    async def LoadWeights(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self.script.saw("LoadWeights", request, context)
        yield reward_pb2.RewardServiceLoadWeightsResponse(progress=types_pb2.Progress(activity="loading"))
        yield reward_pb2.RewardServiceLoadWeightsResponse(
            loaded=types_pb2.LoadedModel(version=request.location.version)
        )


def _score(item: reward_pb2.ScoreItem) -> types_pb2.Score:
    if not item.response:
        return types_pb2.Score(error=types_pb2.ItemError(reason="empty", message="the response is empty"))
    value = float(len(item.response))
    return types_pb2.Score(value=types_pb2.ScoreValue(raw=value, normalised=value))


class ScriptedPolicy(policy_pb2_grpc.PolicyServiceServicer):
    """Answers Generate with the request's prompt ids as the response."""

    def __init__(self, script: Script) -> None:
        self.script = script

    async def Generate(
        self, request: policy_pb2.GenerateRequest, context: Any
    ) -> policy_pb2.GenerateResponse:
        await self.script.saw("Generate", request, context)
        return policy_pb2.GenerateResponse(
            rollouts=[
                types_pb2.Rollout(prompt_id=row.prompt.prompt_id, response_ids=row.prompt.token_ids.ids)
                for row in request.prompts
            ]
        )


class ScriptedTrainer(trainer_pb2_grpc.TrainerServiceServicer):
    """A PPO step reports `beats` times, `pause` seconds apart, then ends as `ending` says."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.beats = 3
        self.pause = 0.01
        self.ending = "result"

    async def GetState(self, request: Any, context: Any) -> trainer_pb2.GetStateResponse:
        await self.script.saw("GetState", request, context)
        return trainer_pb2.GetStateResponse(incarnation="first")

    async def PpoStep(self, request: trainer_pb2.PpoStepRequest, context: Any) -> AsyncIterator[Any]:
        await self.script.saw("PpoStep", request, context)
        for beat in range(self.beats):
            yield trainer_pb2.PpoStepResponse(
                progress=types_pb2.Progress(activity="epoch", done=beat, total=3)
            )
            await asyncio.sleep(self.pause)
        if self.ending == "result":
            yield trainer_pb2.PpoStepResponse(result=trainer_pb2.StepResult(step=7, trained=True))
            await asyncio.sleep(self.pause)
            self.script.calls.append("PpoStep closed")
        elif self.ending == "silence":
            await asyncio.sleep(60)
        elif self.ending == "abort":
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "step 3 was expected; got 2")


class Running:
    """A server that listens: its address, its script, and its word on health."""

    def __init__(
        self, address: str, script: Script, servicer: Any, server: Any, health_servicer: Any
    ) -> None:
        self.address = address
        self.script = script
        self.servicer = servicer
        self.server = server
        self._health = health_servicer

    async def say(self, serving: bool, service: str = REWARD) -> None:
        """Sets what the health service answers for `service`."""
        status = health_pb2.HealthCheckResponse
        await self._health.set(service, status.SERVING if serving else status.NOT_SERVING)


@contextlib.asynccontextmanager
async def serve(kind: type, name: str = "", *, port: int = 0) -> AsyncIterator[Running]:
    """Runs one scripted service with a health service beside it, on a port of 127.0.0.1."""
    script = Script(name)
    servicer = kind(script)
    limits = [
        ("grpc.max_send_message_length", 2 * MESSAGE_LIMIT_BYTES),
        ("grpc.max_receive_message_length", 2 * MESSAGE_LIMIT_BYTES),
        ("grpc.so_reuseport", 0),
    ]
    server = grpc.aio.server(options=limits)
    add = {
        ScriptedReward: reward_pb2_grpc.add_RewardServiceServicer_to_server,
        ScriptedPolicy: policy_pb2_grpc.add_PolicyServiceServicer_to_server,
        ScriptedTrainer: trainer_pb2_grpc.add_TrainerServiceServicer_to_server,
    }[kind]
    add(servicer, server)
    health_servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    running = Running(f"127.0.0.1:{bound}", script, servicer, server, health_servicer)
    for service in ("", REWARD, "trueline.v1.PolicyService"):
        await running.say(True, service)
    await server.start()
    try:
        yield running
    finally:
        await server.stop(0)
