"""The trainer's client: every step a stream of progress, with the deadline on silence."""

from __future__ import annotations

from typing import Any

from trueline.calls import OnProgress
from trueline.service_client import QUESTION_DEADLINE, ServiceClient, message_of
from trueline.v1 import trainer_pb2, trainer_pb2_grpc


class TrainerClient(ServiceClient):
    """Trains. One trainer, one address; its calls reach it whether it is ready or not.

    A step is sent once and never retried by the client: after a CallError the caller asks `get_state`, and
    repeats the call under the same request id, which joins a running step and repeats the answer of a
    finished one.
    """

    SERVICE = trainer_pb2.DESCRIPTOR.services_by_name["TrainerService"]
    STUB = trainer_pb2_grpc.TrainerServiceStub
    BALANCED = False
    # A trainer holds no model before BeginStage: being alive is all that its first call needs.
    READY_SERVICE = ""

    async def get_state(self, *, deadline: float | None = None) -> trainer_pb2.GetStateResponse:
        """Where the trainer stands: incarnation, stage, step, checkpoint; 10 s by default."""
        reply: trainer_pb2.GetStateResponse = await self._unary(
            "GetState", trainer_pb2.GetStateRequest(), deadline, QUESTION_DEADLINE
        )
        return reply

    async def begin_stage(
        self,
        request: trainer_pb2.BeginStageRequest | None = None,
        *,
        silence: float | None = None,
        on_progress: OnProgress | None = None,
        **fields: Any,
    ) -> trainer_pb2.StageBegun:
        """Loads the stage's models and sets the step count to 0.

        Fields: header, stage, models, output_model, models_uri, checkpoints_uri, seed, and one of sft,
        reward_model, ppo, preference.
        """
        message = message_of(trainer_pb2.BeginStageRequest, request, fields)
        result: trainer_pb2.StageBegun = await self._stream("BeginStage", message, silence, on_progress)
        return result

    async def sft_step(
        self,
        request: trainer_pb2.SftStepRequest | None = None,
        *,
        silence: float | None = None,
        on_progress: OnProgress | None = None,
        **fields: Any,
    ) -> trainer_pb2.StepResult:
        """Supervised updates, one pass over the batch. Fields: header, and one of inline, artifact."""
        message = message_of(trainer_pb2.SftStepRequest, request, fields)
        result: trainer_pb2.StepResult = await self._stream("SftStep", message, silence, on_progress)
        return result

    async def reward_model_step(
        self,
        request: trainer_pb2.RewardModelStepRequest | None = None,
        *,
        silence: float | None = None,
        on_progress: OnProgress | None = None,
        **fields: Any,
    ) -> trainer_pb2.StepResult:
        """Bradley-Terry updates, one pass. Fields: header, evaluate_only, and one of inline, artifact."""
        message = message_of(trainer_pb2.RewardModelStepRequest, request, fields)
        result: trainer_pb2.StepResult = await self._stream("RewardModelStep", message, silence, on_progress)
        return result

    async def fit_normalisation(
        self,
        request: trainer_pb2.FitNormalisationRequest | None = None,
        *,
        silence: float | None = None,
        on_progress: OnProgress | None = None,
        **fields: Any,
    ) -> trainer_pb2.FittedNormalisation:
        """Fits the reward model's gain and bias. Fields: header, samples, target_mean, target_stddev."""
        message = message_of(trainer_pb2.FitNormalisationRequest, request, fields)
        result: trainer_pb2.FittedNormalisation = await self._stream(
            "FitNormalisation", message, silence, on_progress
        )
        return result

    async def ppo_step(
        self,
        request: trainer_pb2.PpoStepRequest | None = None,
        *,
        silence: float | None = None,
        on_progress: OnProgress | None = None,
        **fields: Any,
    ) -> trainer_pb2.StepResult:
        """One round of PPO on scored rollouts. Fields: header, and one of inline, artifact."""
        message = message_of(trainer_pb2.PpoStepRequest, request, fields)
        result: trainer_pb2.StepResult = await self._stream("PpoStep", message, silence, on_progress)
        return result

    async def preference_step(
        self,
        request: trainer_pb2.PreferenceStepRequest | None = None,
        *,
        silence: float | None = None,
        on_progress: OnProgress | None = None,
        **fields: Any,
    ) -> trainer_pb2.StepResult:
        """Updates that learn from pairs. Fields: header, evaluate_only, and one of inline, artifact."""
        message = message_of(trainer_pb2.PreferenceStepRequest, request, fields)
        result: trainer_pb2.StepResult = await self._stream("PreferenceStep", message, silence, on_progress)
        return result

    async def publish(
        self,
        request: trainer_pb2.PublishRequest | None = None,
        *,
        silence: float | None = None,
        on_progress: OnProgress | None = None,
        **fields: Any,
    ) -> trainer_pb2.PublishedModel:
        """Writes the stage's model as version `number` and points to it. Fields: header, number."""
        message = message_of(trainer_pb2.PublishRequest, request, fields)
        result: trainer_pb2.PublishedModel = await self._stream("Publish", message, silence, on_progress)
        return result

    async def roll_back(
        self,
        request: trainer_pb2.RollBackRequest | None = None,
        *,
        silence: float | None = None,
        on_progress: OnProgress | None = None,
        **fields: Any,
    ) -> trainer_pb2.PublishedModel:
        """Publishes a good version's weights as a NEW version and goes on from them.

        Fields: header, good, number.
        """
        message = message_of(trainer_pb2.RollBackRequest, request, fields)
        result: trainer_pb2.PublishedModel = await self._stream("RollBack", message, silence, on_progress)
        return result

    async def checkpoint(
        self,
        request: trainer_pb2.CheckpointRequest | None = None,
        *,
        silence: float | None = None,
        on_progress: OnProgress | None = None,
        **fields: Any,
    ) -> trainer_pb2.CheckpointLocation:
        """Writes all that a restart needs to go on from this step. Fields: header."""
        message = message_of(trainer_pb2.CheckpointRequest, request, fields)
        result: trainer_pb2.CheckpointLocation = await self._stream(
            "Checkpoint", message, silence, on_progress
        )
        return result

    async def restore(
        self,
        request: trainer_pb2.RestoreRequest | None = None,
        *,
        silence: float | None = None,
        on_progress: OnProgress | None = None,
        **fields: Any,
    ) -> trainer_pb2.GetStateResponse:
        """Puts the trainer where a checkpoint was written. Fields: header, checkpoint."""
        message = message_of(trainer_pb2.RestoreRequest, request, fields)
        result: trainer_pb2.GetStateResponse = await self._stream("Restore", message, silence, on_progress)
        return result
