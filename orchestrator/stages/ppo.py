"""The verbs of a PPO round: draw, sample and score, train, publish, serve, commit, roll back."""

from collections.abc import Sequence
from typing import Any

from orchestrator.accounts import account_of
from orchestrator.data import read_prompts
from orchestrator.fitting import fitting_prompts
from orchestrator.payloads import Payload, write_payload
from orchestrator.peers import in_parallel
from orchestrator.prompts import Asked, Row
from orchestrator.recipe_stages import PpoStage
from orchestrator.run import Run, RunError, Stopwatch, location
from orchestrator.sampling import (
    Sampler,
    cut,
    present,
    reference_logprobs,
    rollouts_path,
    score,
    score_rollouts,
    values,
)
from orchestrator.seeds import derive, prompts_at
from orchestrator.sources import read_rows
from orchestrator.statistics import mean_interval
from orchestrator.training import TrainingStage, begin_request, settings_message
from trueline.v1 import trainer_pb2, types_pb2

Phase = dict[str, Any]


class PpoRounds:
    """One PPO stage: the trainer's side, the version served, and where the ledger stands."""

    def __init__(self, run: Run, name: str, settings: PpoStage) -> None:
        self.run, self.name, self.settings = run, name, settings
        self.seed = derive(run.recipe.seed, name)
        self.truncate = settings.too_long == "truncate"
        self.prompts = read_rows(run, read_prompts, settings.prompts)
        self.gold_prompts: list[Row] = []
        if settings.gold_scorer is not None and settings.gold_prompts is not None:
            self.gold_prompts = read_rows(run, read_prompts, settings.gold_prompts)
        self.policy = types_pb2.ModelVersion()
        self.reference = types_pb2.ModelVersion()
        self.training = TrainingStage(
            run,
            name,
            self._begin_request(),
            run.peers.trainer.ppo_step,
            self._step_request,
            settings.checkpoint_every,
        )
        self.watch = Stopwatch()
        self.resumed = False

    @classmethod
    async def begin(cls, run: Run, name: str, settings: PpoStage) -> "PpoRounds":
        """Brings every service to where the ledger stands."""
        stage = cls(run, name, settings)
        run.time.take_phases()  # the rounds' own begin here
        newest = settings.output if run.ledger.latest_version(settings.output) else settings.policy
        stage.policy, stage.reference, _, _ = await in_parallel(
            [
                run.serve_policy(newest),
                run.serve_reference(settings.reference),
                run.serve_scorers(settings.scorer, settings.gold_scorer),
                stage.training.recover(),
            ]
        )
        await stage._fit()
        return stage

    async def _fit(self) -> None:
        """Deals with prompts that leave no room for an answer, before the first round draws any."""
        for what in ("prompts", "gold_prompts"):
            rows: list[Row] = getattr(self, what)
            if rows:
                fitting = await fitting_prompts(self.run, self.name, what, rows, self.settings, self.policy)
                setattr(self, what, fitting)

    def rounds_left(self) -> range:
        """The rounds that are not over; none once a budget has rolled back."""
        over = [each for each in self.run.ledger.all_rounds(self.name) if each.status != "open"]
        if any(each.status == "rolled_back" for each in over):
            return range(0)
        return range(len(over) + 1, self.settings.rounds + 1)

    def draw(self, number: int) -> list[Asked]:
        """The round's prompts: the next places of the cursor, which the round's row reserves."""
        self.watch = Stopwatch()
        self.resumed = self.run.ledger.round(self.name, number) is not None
        row = self.run.ledger.begin_round(self.name, number, self.settings.prompts_per_round)
        places = row.cursor_end - row.cursor_start
        drawn = prompts_at(row.cursor_start, places, len(self.prompts), self.seed)
        samples = self.settings.samples_per_prompt
        return [Asked(self.prompts[index], first_sample=epoch * samples) for index, epoch in drawn]

    async def sample_and_score(self, number: int, prompts: Sequence[Asked]) -> Payload:
        """The round's rollouts, whole: a chunk is scored while the next one is drawn.

        A chunk is durable before it is scored, and the batch before it trains.
        """
        known = self.run.ledger.phase(self.name, number, "scored")
        if known is not None:
            return Payload(**known)
        seed = derive(self.seed, number)
        sampler = Sampler(self.run, self.name, number, self.settings.sampling, seed, truncate=self.truncate)
        chunks = cut(prompts, self.settings.prompts_per_chunk)
        drawn: dict[int, list[types_pb2.Rollout]] = {}

        async def fill(index: int, asked: Sequence[Asked]) -> list[types_pb2.Rollout]:
            samples = self.settings.samples_per_prompt
            rollouts = await sampler.chunk(index, asked, samples, self.policy)
            drawn[index] = rollouts
            if len(drawn) == len(chunks):
                everything = [each for index in sorted(drawn) for each in drawn[index]]
                account = {"chunks": len(chunks), **account_of(everything)}
                self.run.mark(self.name, number, "sampled", account, self.watch)
            answered = [each.row for each in asked for _ in range(samples)]
            await in_parallel(
                [
                    reference_logprobs(self.run, rollouts, self.reference),
                    score_rollouts(self.run, self.settings.scorer, answered, rollouts),
                ]
            )
            return rollouts

        filled = await in_parallel(fill(index, asked) for index, asked in enumerate(chunks))
        batch = trainer_pb2.PpoBatch(rollouts=[each for rollouts in filled for each in rollouts])
        self._refuse_missing(batch)
        payload = write_payload(rollouts_path(self.run, self.name, number) / "scored.pb", batch)
        self.run.mark(self.name, number, "scored", payload.as_row(), self.watch)
        return payload

    def _refuse_missing(self, batch: trainer_pb2.PpoBatch) -> None:
        """RunError where too many scores are missing: slow or odd answers would be the ones left out.

        Before the batch is kept, so that a resume asks the scorer again.
        """
        errors = [each.score.error for each in batch.rollouts if each.score.WhichOneof("outcome") != "value"]
        limit = self.settings.algorithm.max_missing_share
        if len(errors) > limit * len(batch.rollouts):
            raise RunError(
                f"{self.name}: {len(errors)} of {len(batch.rollouts)} scores are missing, more than "
                f"max_missing_share ({limit:g}) allows; the first: {errors[0].reason or 'no score'}: "
                f"{errors[0].message}. Mend the scorer {self.settings.scorer!r} and resume"
            )

    async def train(self, number: int) -> Phase:
        """One PPO step; on the idle policy service, every few rounds, gold is measured meanwhile."""
        trained, _ = await in_parallel([self.training.train(number), self._measure(number)])
        return dict(trained)

    def over_budget(self, trained: Phase) -> bool:
        """True when the batch reached the hard KL budget: the trainer left the weights alone."""
        return trained["kl_budget"] == "stop"

    async def publish(self, number: int) -> types_pb2.ModelLocation:
        """Publishes the round's policy as version `number`, and every so often checkpoints the trainer."""
        version = await self.training.publish(number)
        await self.training.checkpoint(number, last=self.settings.rounds)
        return version

    async def serve(self) -> None:
        """Makes every policy replica serve the new version; the next round's calls refuse any other."""
        with self.run.time.phase("served"):
            self.policy = await self.run.serve_policy(self.settings.output)

    async def commit(self, number: int, trained: Phase) -> None:
        """Closes the round: what it measured and where its time went."""
        seconds = self.watch.seconds
        metrics = {
            **trained["metrics"],
            **figures_of(self.run.ledger.phase(self.name, number, "measured") or {}),
            "excluded": trained["excluded"],
            "kl_budget": trained["kl_budget"],
            **self.run.time.take_phases(),
            "generated_tokens": generated_tokens(trained["metrics"]),
            "resumed": self.resumed,
            "overhead_seconds": seconds
            - self.run.time.computing(self.watch.start, self.watch.start + seconds),
        }
        self.run.ledger.commit_round(self.name, number, metrics, seconds)
        self.run.retainer.apply(self.name)
        numbers = {name: value for name, value in metrics.items() if isinstance(value, float)}
        if not self.resumed:  # else part of the tokens were drawn before these seconds began
            numbers["tokens_per_second"] = numbers["generated_tokens"] / seconds
        self.run.progress.step_done(self.name, number, self.settings.rounds, numbers)

    async def roll_back(self, number: int, trained: Phase) -> None:
        """Goes back to the last version whose KL was below the budget, as a NEW version; ends the stage.

        The batch of round n was sampled by version n - 1, so that version is the one over budget, and
        the one before it the last that was measured to be good.
        """
        good_round = max(number - 2, 0)
        good = self._version_of_round(good_round)

        async def produce() -> Phase:
            header = self.run.header(f"{self.name}/{number}/rolled-back", expected_step=number - 1)
            request = trainer_pb2.RollBackRequest(header=header, good=good, number=number)
            published = await self.training.ask(lambda: self.training.trainer.roll_back(request))
            version = published.location.version
            self.run.ledger.add_version(
                self.settings.output,
                version.number,
                version.sha256,
                published.location.uri,
                self.name,
                number,
            )
            return {
                "good": good_round,
                "number": version.number,
                "kl": trained["metrics"].get("kl_reference_k1"),
            }

        await self.run.durable(self.name, number, "rolled_back", produce)
        await self.run.serve_policy(self.settings.output)
        self.run.ledger.note(
            f"{self.name}: round {number} measured a KL at the hard budget; rolled back to version "
            f"{good_round} as version {number}, and stopped"
        )
        self.run.ledger.roll_back_rounds(self.name, after=good_round)

    def result(self) -> dict[str, Any]:
        """What the stage made."""
        rounds = self.run.ledger.all_rounds(self.name)
        return {
            "rounds": len(rounds),
            "committed": sum(1 for each in rounds if each.status == "committed"),
            "model": self.settings.output,
        }

    async def _measure(self, number: int) -> None:
        """Gold and proxy of the current policy on held-out prompts: one sample each, with fixed seeds."""
        if not self.gold_prompts or (number - 1) % self.settings.gold_every:
            return
        prompts = self.gold_prompts[: self.settings.gold_limit]

        async def produce() -> Phase:
            seed = derive(self.seed, "gold")
            sampler = Sampler(
                self.run, self.name, number, self.settings.sampling, seed, "gold-", self.truncate
            )
            chunks = cut(prompts, self.settings.prompts_per_chunk)
            filled = await in_parallel(
                sampler.chunk(index, [Asked(row) for row in rows], 1, self.policy)
                for index, rows in enumerate(chunks)
            )
            texts = [each.response_text for rollouts in filled for each in rollouts]
            assert self.settings.gold_scorer is not None
            gold, proxy = await in_parallel(
                [
                    score(self.run, self.settings.gold_scorer, prompts, texts),
                    score(self.run, self.settings.scorer, prompts, texts),
                ]
            )
            gold_numbers, proxy_numbers = values(gold), values(proxy, normalised=True)
            gold_interval = mean_interval(present(gold_numbers))
            return {
                "gold": gold_interval.mean,
                "gold_low": gold_interval.low,
                "gold_high": gold_interval.high,
                "proxy": mean_interval(present(proxy_numbers)).mean,
                **disagreement_of(proxy),
                # Prompt by prompt, since a fall is seen in differences that no two means give.
                "gold_scores": gold_numbers,
                "proxy_scores": proxy_numbers,
            }

        await self.run.durable(self.name, number, "measured", produce)

    def _version_of_round(self, number: int) -> types_pb2.ModelLocation:
        if number == 0:
            return self.run.locate(self.settings.policy)
        row = self.run.ledger.version(self.settings.output, number)
        if row is None:
            raise RunError(f"{self.name}: the ledger has no version {number} to go back to")
        return location(self.settings.output, row)

    def _step_request(self, number: int) -> trainer_pb2.PpoStepRequest:
        scored = self.run.ledger.phase(self.name, number, "scored")
        assert scored is not None, f"{self.name} {number} trains before it is scored"
        return trainer_pb2.PpoStepRequest(artifact=Payload(**scored).as_artifact())

    def _begin_request(self) -> trainer_pb2.BeginStageRequest:
        settings = self.settings
        algorithm = settings_message(trainer_pb2.PpoSettings, settings.algorithm.model_dump())
        algorithm.total_rounds = settings.rounds
        models = [
            trainer_pb2.StageModel(
                role=trainer_pb2.MODEL_ROLE_TRAINED, location=self.run.locate(settings.policy)
            )
        ]
        if settings.critic:
            models.append(
                trainer_pb2.StageModel(
                    role=trainer_pb2.MODEL_ROLE_REWARD, location=self.run.locate(settings.critic)
                )
            )
        return begin_request(self.run, self.name, settings.output, models, ppo=algorithm)


def figures_of(measured: Phase) -> Phase:
    """A measurement's figures, without the scores that they are made of."""
    return {name: value for name, value in measured.items() if not name.endswith("_scores")}


def disagreement_of(scores: Sequence[types_pb2.Score]) -> Phase:
    """How far an ensemble's members are apart on average; nothing for another scorer."""
    apart = [each.value.disagreement for each in scores if each.value.HasField("disagreement")]
    return {"disagreement": mean_interval(apart).mean} if apart else {}


def generated_tokens(metrics: dict[str, float]) -> float:
    """Response tokens of the round's rollouts that trained."""
    return metrics.get("rollouts", 0.0) * metrics.get("response_tokens_mean", 0.0)
