"""The trainer's edge: messages become commands, results become messages; fencing is here and nowhere else."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, TypeVar

import grpc

from services.fence import CallHeader, Fence
from services.progress import Finished, ProgressFeed
from services.server import Host
from services.trainer import commands, wire
from services.trainer.device import Compute
from services.trainer.exports import TrainerExports
from services.trainer.gang import Children, Gang
from services.trainer.preference_wire import pairs_from_pb
from services.trainer.records import Location
from services.trainer.trainer import Trainer
from services.wire import fingerprint, header_from_pb, location_from_pb, progress_to_pb
from services.work import Timing
from trueline.v1 import trainer_pb2 as pb
from trueline.v1 import trainer_pb2_grpc

Stream = AsyncGenerator[Any, None]
Result = TypeVar("Result")


class TrainerServicer(trainer_pb2_grpc.TrainerServiceServicer):
    """The rpcs of trueline.v1.TrainerService, and the application that the bootstrap runs."""

    def __init__(self, host: Host, compute: Compute, children: Children | None = None) -> None:
        self.host = host
        self.trainer = Trainer(compute)
        self.exports = TrainerExports(host.registry)
        self.gang = Gang(self.trainer, children) if compute.ranks.size > 1 else None
        self.fence = Fence()
        self.incarnation = secrets.token_hex(8)
        self._turn = asyncio.Lock()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds the rpcs to a server."""
        trainer_pb2_grpc.add_TrainerServiceServicer_to_server(self, server)

    async def start(self) -> None:
        """A trainer loads nothing before BeginStage: it can take that call at once, when its ranks are there.

        Raises, and so ends the process, when a rank is lost.
        """
        if self.gang is None:
            await self.host.set_ready(True)
            return
        await self._unless_lost(self.host.work.run(self.gang.join))
        await self.host.set_ready(True)
        await asyncio.wrap_future(self.gang.lost)

    async def GetState(self, request: pb.GetStateRequest, context: Any) -> pb.GetStateResponse:
        """Where the trainer stands; answers while a step runs."""
        return self._state()

    async def BeginStage(self, request: pb.BeginStageRequest, context: Any) -> Stream:
        """Loads a stage's models; the answers of the stage before are forgotten with it."""

        def convert() -> commands.Command:
            return commands.BeginStage(wire.plan_from_pb(request))

        def answer(begun: Any, timing: Timing) -> pb.BeginStageResponse:
            self.fence.forget_answers()
            return pb.BeginStageResponse(begun=wire.begun_to_pb(begun, self.incarnation))

        async for response in self._run("BeginStage", request, convert, answer, pb.BeginStageResponse):
            yield response

    async def SftStep(self, request: pb.SftStepRequest, context: Any) -> Stream:
        """One pass over demonstrations."""

        def convert() -> commands.Command:
            rows = wire.demonstrations_from_pb(wire.batch_of(request, pb.SftBatch))
            return commands.SftStep(*_place(request), rows)

        def answer(report: Any, timing: Timing) -> pb.SftStepResponse:
            return pb.SftStepResponse(result=wire.result_to_pb(report, timing))

        async for response in self._run("SftStep", request, convert, answer, pb.SftStepResponse):
            yield response

    async def RewardModelStep(self, request: pb.RewardModelStepRequest, context: Any) -> Stream:
        """One pass over comparisons, or their metrics."""

        def convert() -> commands.Command:
            groups = wire.groups_from_pb(wire.batch_of(request, pb.ComparisonBatch))
            return commands.RewardModelStep(*_place(request), groups, request.evaluate_only)

        def answer(report: Any, timing: Timing) -> pb.RewardModelStepResponse:
            return pb.RewardModelStepResponse(result=wire.result_to_pb(report, timing))

        async for response in self._run(
            "RewardModelStep", request, convert, answer, pb.RewardModelStepResponse
        ):
            yield response

    async def PpoStep(self, request: pb.PpoStepRequest, context: Any) -> Stream:
        """One round of PPO."""

        def convert() -> commands.Command:
            rollouts = wire.rollouts_from_pb(wire.batch_of(request, pb.PpoBatch))
            return commands.PpoStep(*_place(request), rollouts)

        def answer(report: Any, timing: Timing) -> pb.PpoStepResponse:
            return pb.PpoStepResponse(result=wire.result_to_pb(report, timing))

        async for response in self._run("PpoStep", request, convert, answer, pb.PpoStepResponse):
            yield response

    async def PreferenceStep(self, request: pb.PreferenceStepRequest, context: Any) -> Stream:
        """Passes over pairs, or their metrics."""

        def convert() -> commands.Command:
            pairs = pairs_from_pb(wire.batch_of(request, pb.PreferenceBatch))
            return commands.PreferenceStep(*_place(request), pairs, request.evaluate_only)

        def answer(report: Any, timing: Timing) -> pb.PreferenceStepResponse:
            return pb.PreferenceStepResponse(result=wire.result_to_pb(report, timing))

        async for response in self._run(
            "PreferenceStep", request, convert, answer, pb.PreferenceStepResponse
        ):
            yield response

    async def FitNormalisation(self, request: pb.FitNormalisationRequest, context: Any) -> Stream:
        """Fits the reward model's gain and bias."""

        def convert() -> commands.Command:
            return wire.fit_from_pb(request)

        def answer(fitted: Any, timing: Timing) -> pb.FitNormalisationResponse:
            return pb.FitNormalisationResponse(fitted=wire.fitted_to_pb(fitted))

        async for response in self._run(
            "FitNormalisation", request, convert, answer, pb.FitNormalisationResponse
        ):
            yield response

    async def Publish(self, request: pb.PublishRequest, context: Any) -> Stream:
        """Writes a version."""

        def convert() -> commands.Command:
            return commands.Publish(*_place(request), request.number)

        def answer(published: Any, timing: Timing) -> pb.PublishResponse:
            return pb.PublishResponse(published=wire.published_to_pb(published))

        async for response in self._run("Publish", request, convert, answer, pb.PublishResponse):
            yield response

    async def RollBack(self, request: pb.RollBackRequest, context: Any) -> Stream:
        """Makes a good version the policy again, as a new version."""

        def convert() -> commands.Command:
            expected, path = location_from_pb(request.good, "good")
            return commands.RollBack(*_place(request), Location(path, expected), request.number)

        def answer(published: Any, timing: Timing) -> pb.RollBackResponse:
            return pb.RollBackResponse(published=wire.published_to_pb(published))

        async for response in self._run("RollBack", request, convert, answer, pb.RollBackResponse):
            yield response

    async def Checkpoint(self, request: pb.CheckpointRequest, context: Any) -> Stream:
        """Writes a checkpoint."""

        def convert() -> commands.Command:
            return commands.WriteCheckpoint(*_place(request))

        def answer(place: Any, timing: Timing) -> pb.CheckpointResponse:
            return pb.CheckpointResponse(checkpoint=wire.checkpoint_to_pb(place))

        async for response in self._run("Checkpoint", request, convert, answer, pb.CheckpointResponse):
            yield response

    async def Restore(self, request: pb.RestoreRequest, context: Any) -> Stream:
        """Goes on from a checkpoint; answers given since are forgotten: their steps will be sent again."""

        def convert() -> commands.Command:
            place = wire.checkpoint_from_pb(request.checkpoint)
            return commands.Restore(request.header.run_id, place)

        def answer(standing: Any, timing: Timing) -> pb.RestoreResponse:
            self.fence.forget_answers()
            return pb.RestoreResponse(state=self._state())

        async for response in self._run("Restore", request, convert, answer, pb.RestoreResponse):
            yield response

    async def _run(
        self,
        method: str,
        request: Any,
        convert: Callable[[], commands.Command],
        answer: Callable[[Any, Timing], Any],
        response: Callable[..., Any],
    ) -> Stream:
        """Progress at once and every few seconds, then the answer; a repeat joins or gets the same answer."""
        header = header_from_pb(request.header)

        async def step(progress: ProgressFeed) -> Any:
            return await self._execute(method, header, convert, answer, progress)

        async for event in self.fence.stream(header, step, fingerprint(method, request)):
            if isinstance(event, Finished):
                yield event.result
            else:
                yield response(progress=progress_to_pb(event))

    async def _execute(
        self,
        method: str,
        header: CallHeader,
        convert: Callable[[], commands.Command],
        answer: Callable[[Any, Timing], Any],
        progress: ProgressFeed,
    ) -> Any:
        """Converts the request off the event loop and executes its command when its turn has come."""
        arrived = time.perf_counter()
        command = await asyncio.to_thread(convert)
        async with self._turn:
            self.fence.check(header)  # a new leader may have come while this one waited
            waited = time.perf_counter() - arrived
            executor = self.gang or self.trainer
            try:
                work = self.host.work.run(executor.execute, command, progress)
                result, timing = await self._unless_lost(work)
            except Exception:
                self.exports.failed(method)
                raise
        self.exports.done(method, result, timing.compute_seconds)
        return answer(result, Timing(waited + timing.queue_seconds, timing.compute_seconds))

    async def _unless_lost(self, work: Coroutine[Any, Any, Result]) -> Result:
        """What the work gives; raises at once when a rank is lost, which the work may wait for."""
        if self.gang is None:
            return await work
        lost: asyncio.Future[Any] = asyncio.shield(asyncio.wrap_future(self.gang.lost))
        task: asyncio.Future[Any] = asyncio.ensure_future(work)
        await asyncio.wait({task, lost}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            lost.result()
        lost.cancel()
        result: Result = task.result()
        return result

    def _state(self) -> pb.GetStateResponse:
        standing = self.trainer.standing
        return wire.state_to_pb(
            standing,
            incarnation=self.incarnation,
            epoch=self.fence.epoch(standing.run_id),
            running_request_id=self.fence.running_request_id,
            deterministic=self.trainer.compute.deterministic,
        )


def _place(request: Any) -> tuple[str, int]:
    """(run, expected step): what a command on a stage begins with."""
    return request.header.run_id, request.header.expected_step
