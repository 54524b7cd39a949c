"""What a PPO round adds to the verbs of every round: rollouts with their scores, and the trainer's budget."""

import math
from collections.abc import Sequence

from orchestrator.payloads import Payload, write_payload
from orchestrator.peers import in_parallel
from orchestrator.prompts import Asked, Row
from orchestrator.recipe_rounds import PpoStage
from orchestrator.refreshes import version_before
from orchestrator.run import Run, RunError, location
from orchestrator.sampling import reference_logprobs, rollouts_path, score_rollouts
from orchestrator.stages.online import OnlineRounds, Phase, Rollouts
from orchestrator.training import TrainingStage, begin_request, settings_message, stage_model, trained_model
from trueline.scoring import trains
from trueline.v1 import trainer_pb2, types_pb2


class PpoRounds(OnlineRounds):
    """One PPO stage."""

    settings: PpoStage

    def __init__(self, run: Run, name: str, settings: PpoStage) -> None:
        self.proxy, self.hard_budget = settings.scorer, settings.algorithm.kl_budget_hard
        super().__init__(run, name, settings)

    def trainer_side(self) -> TrainingStage:
        """PPO steps on the rounds' scored batches."""
        step, every = self.run.peers.trainer.ppo_step, self.settings.checkpoint_every
        return TrainingStage(self.run, self.name, self._begin_request(), step, self._step_request, every)

    async def sample_and_score(self, number: int, prompts: Sequence[Asked]) -> Payload:
        """The round's rollouts, whole: a chunk is scored while the next one is drawn.

        A chunk is durable before it is scored, and the batch before it trains.
        """
        known = self.run.ledger.phase(self.name, number, "scored")
        if known is not None:
            return Payload(**known)

        async def fill(rows: list[Row], rollouts: Rollouts) -> None:
            await in_parallel(
                [
                    reference_logprobs(self.run, rollouts, self.reference),
                    score_rollouts(self.run, self.settings.scorer, rows, rollouts),
                ]
            )

        batch = trainer_pb2.PpoBatch(rollouts=await self.sample(number, prompts, fill))
        self._refuse_missing(batch)
        payload = write_payload(rollouts_path(self.run, self.name, number) / "scored.pb", batch)
        self.run.mark(self.name, number, "scored", payload.as_row(), self.watch)
        return payload

    def _refuse_missing(self, batch: trainer_pb2.PpoBatch) -> None:
        """RunError where too many scores are missing: slow or odd answers would be the ones left out.

        Before the batch is kept, so that a resume asks the scorer again.
        """
        algorithm = self.settings.algorithm
        faults = [score_fault(each.score, algorithm.score_clip) for each in batch.rollouts]
        missing, limit = [each for each in faults if each], algorithm.max_missing_share
        if len(missing) > limit * len(batch.rollouts):
            raise RunError(
                f"{self.name}: {len(missing)} of {len(batch.rollouts)} scores are missing, more than "
                f"max_missing_share ({limit:g}) allows; the first: {missing[0]}. "
                f"Mend the scorer {self.settings.scorer!r} and resume"
            )

    def over_budget(self, trained: Phase) -> bool:
        """True when the batch reached the hard KL budget: the trainer left the weights alone."""
        return bool(trained["kl_budget"] == "stop")

    async def commit(self, number: int, trained: Phase) -> None:
        """Closes the round, with what training gave."""
        told = {"excluded": trained["excluded"], "kl_budget": trained["kl_budget"]}
        await self.close(number, {**trained["metrics"], **told})

    def _step_request(self, number: int) -> trainer_pb2.PpoStepRequest:
        scored = self.run.ledger.phase(self.name, number, "scored")
        assert scored is not None, f"{self.name} {number} trains before it is scored"
        return trainer_pb2.PpoStepRequest(artifact=Payload(**scored).as_artifact())

    def _begin_request(self) -> trainer_pb2.BeginStageRequest:
        settings = self.settings
        algorithm = settings_message(trainer_pb2.PpoSettings, settings.algorithm.model_dump())
        algorithm.total_rounds = settings.rounds
        models = [trained_model(self.run.locate(settings.policy))]
        if settings.critic:
            before = version_before(self.run.recipe, self.run.ledger, self.name, settings.critic)
            critic = location(settings.critic, before) if before else self.run.locate(settings.critic)
            models.append(stage_model(trainer_pb2.MODEL_ROLE_REWARD, critic))
        return begin_request(self.run, self.name, settings.output, models, ppo=algorithm)


def score_fault(score: types_pb2.Score, score_clip: float) -> str:
    """Why the trainer will leave a row out, such as "timeout: no answer"; "" where its score trains."""
    if score.WhichOneof("outcome") != "value":
        return f"{score.error.reason or 'no score'}: {score.error.message}"
    raw, normalised = score.value.raw, score.value.normalised
    if math.isfinite(raw) and trains(normalised, score_clip):
        return ""
    return f"score_not_finite: the score is {raw:g}, {normalised:g} when normalised"
