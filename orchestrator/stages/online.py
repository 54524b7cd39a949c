"""The verbs that rounds of any algorithm share: draw, sample, measure, publish, serve, commit, roll back."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from orchestrator.accounts import account_of
from orchestrator.data import read_prompts
from orchestrator.engine_plan import check_tokens
from orchestrator.fitting import fitting_prompts
from orchestrator.peers import in_parallel
from orchestrator.prompts import Asked, Row
from orchestrator.recipe_rounds import OnlineStage
from orchestrator.refreshes import refreshes_of
from orchestrator.run import Run, RunError, Stopwatch, location
from orchestrator.sampling import Sampler, cut_prompts, present, score, values
from orchestrator.seeds import derive, prompts_at
from orchestrator.sources import read_rows
from orchestrator.stages.refresh import is_done, run_refresh
from orchestrator.statistics import mean_interval
from orchestrator.training import TrainingStage
from trueline.v1 import trainer_pb2, types_pb2

Phase = dict[str, Any]
Rollouts = list[types_pb2.Rollout]
# What becomes of a chunk while the next one is drawn: its rollouts, and the prompt's row of each.
Fill = Callable[[list[Row], Rollouts], Awaitable[Any]]
Rounds = TypeVar("Rounds", bound="OnlineRounds")


class OnlineRounds:
    """A stage that learns from what its policy says now: where the ledger stands, and the version served.

    An algorithm adds what it does with a round's rollouts, and how the trainer begins and steps.
    """

    settings: OnlineStage
    proxy: str | None  # the scorer that stands for what is wanted, measured beside gold
    hard_budget: float  # nats per sequence; 0 is none

    def __init__(self, run: Run, name: str, settings: OnlineStage) -> None:
        self.run, self.name, self.settings = run, name, settings
        self.seed = derive(run.recipe.seed, name)
        self.truncate = settings.too_long == "truncate"
        self.prompts = read_rows(run, read_prompts, settings.prompts)
        self.gold_prompts: list[Row] = []
        if settings.gold_scorer is not None and settings.gold_prompts is not None:
            self.gold_prompts = read_rows(run, read_prompts, settings.gold_prompts)
        self.policy = types_pb2.ModelVersion()
        self.reference = types_pb2.ModelVersion()
        self.training = self.trainer_side()
        self.refreshes = refreshes_of(run.recipe, name)
        self.watch = Stopwatch()
        self.resumed = False

    def trainer_side(self) -> TrainingStage:
        """How the stage begins on the trainer, and what its steps are."""
        raise NotImplementedError

    @classmethod
    async def begin(cls: type[Rounds], run: Run, name: str, settings: Any) -> Rounds:
        """Brings every service to where the ledger stands."""
        stage = cls(run, name, settings)
        run.time.take_phases()  # the rounds' own begin here
        newest = settings.output if run.ledger.latest_version(settings.output) else settings.policy
        stage.policy, stage.reference, _, _, _ = await in_parallel(
            [
                run.serve_policy(newest),
                run.serve_reference(settings.reference),
                run.serve_scorers(stage.proxy, settings.gold_scorer),
                stage.serve_others(),
                stage.training.recover(),
            ]
        )
        await check_tokens(run, name)
        await stage._fit()
        return stage

    async def serve_others(self) -> None:
        """Brings those that only this algorithm asks to what they serve."""

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

    async def refresh(self, number: int) -> None:
        """Where one is due before round `number`, and not done yet: the reward model learns anew."""
        due = next((each for each in self.refreshes if each.behind == number - 1), None)
        if due is None or is_done(self.run, due):
            return
        await self.training.checkpoint_now(due.behind)
        await run_refresh(self.run, self.name, due)
        await in_parallel(
            [
                self.training.recover(),
                self.run.serve_scorers(self.proxy, self.settings.gold_scorer),
                self.serve_others(),
            ]
        )
        self.run.time.take_phases()  # the refresh's own are no part of the round's

    def draw(self, number: int) -> list[Asked]:
        """The round's prompts: the next places of the cursor, which the round's row reserves."""
        self.watch = Stopwatch()
        self.resumed = self.run.ledger.round(self.name, number) is not None
        row = self.run.ledger.begin_round(self.name, number, self.settings.prompts_per_round)
        return self.asked_from(row.cursor_start, row.cursor_end - row.cursor_start)

    def asked_from(self, start: int, places: int) -> list[Asked]:
        """The prompts at so many places of the cursor, and the first sample of each."""
        drawn = prompts_at(start, places, len(self.prompts), self.seed)
        samples = self.settings.samples_per_prompt
        return [Asked(self.prompts[index], first_sample=epoch * samples) for index, epoch in drawn]

    async def sample(self, number: int, prompts: Sequence[Asked], fill: Fill) -> Rollouts:
        """The round's rollouts, each chunk durable, then filled in while the next one is drawn."""
        seed = derive(self.seed, number)
        sampler = Sampler(self.run, self.name, number, self.settings.sampling, seed, truncate=self.truncate)
        chunks = cut_prompts(prompts, self.settings.prompts_per_chunk, self.settings.samples_per_prompt)
        drawn: dict[int, Rollouts] = {}

        async def work(index: int, asked: Sequence[Asked]) -> Rollouts:
            samples = self.settings.samples_per_prompt
            rollouts = await sampler.chunk(index, asked, samples, self.policy)
            drawn[index] = rollouts
            if len(drawn) == len(chunks):
                everything = [each for index in sorted(drawn) for each in drawn[index]]
                account = {"chunks": len(chunks), **account_of(everything)}
                self.run.mark(self.name, number, "sampled", account, self.watch)
            await fill([each.row for each in asked for _ in range(samples)], rollouts)
            return rollouts

        filled = await in_parallel(work(index, asked) for index, asked in enumerate(chunks))
        return [each for rollouts in filled for each in rollouts]

    async def train(self, number: int) -> Phase:
        """One step; on the idle policy service, every few rounds, gold is measured meanwhile."""
        trained, _ = await in_parallel([self.training.train(number), self._measure(number)])
        return dict(trained)

    async def publish(self, number: int) -> types_pb2.ModelLocation:
        """Publishes the round's policy as version `number`, and every so often checkpoints the trainer."""
        version = await self.training.publish(number)
        await self.training.checkpoint(number, last=self.settings.rounds)
        return version

    async def serve(self) -> None:
        """Makes every policy replica serve the new version; the next round's calls refuse any other."""
        with self.run.time.phase("served"):
            self.policy = await self.run.serve_policy(self.settings.output)

    async def close(self, number: int, found: dict[str, Any]) -> None:
        """Commits the round: what the algorithm found, what was measured, and where its time went."""
        seconds = self.watch.seconds
        metrics = {
            **found,
            **figures_of(self.run.ledger.phase(self.name, number, "measured") or {}),
            **self.run.time.take_phases(),
            "generated_tokens": found.get("rollouts", 0.0) * found.get("response_tokens_mean", 0.0),
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

    async def roll_back(self, number: int, kl: float | None) -> None:
        """Goes back to the last version whose KL was below the budget, as a NEW version; ends the stage.

        The batch of round n was sampled by version n - 1, so that version is the one over budget, and
        the one before it the last that was measured to be good.
        """
        good_round = max(number - 2, 0)
        why = f"measured a KL at the hard budget; rolled back to version {good_round} as version {number}"
        await self.end_at(number, good_round, kl, f"{why}, and stopped")

    async def end_at(
        self, number: int, good_round: int, kl: float | None, why: str, version: int | None = None
    ) -> None:
        """Ends the stage before a round trains, with the weights of an earlier one as its last version.

        That has the round's number; where the round made one of this number itself, `version` is the next.
        """
        good, last = self._version_of_round(good_round), version or number

        async def produce() -> Phase:
            header = self.run.header(f"{self.name}/{number}/rolled-back", expected_step=last - 1)
            request = trainer_pb2.RollBackRequest(header=header, good=good, number=last)
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
            return {"good": good_round, "number": version.number, "kl": kl}

        await self.run.durable(self.name, number, "rolled_back", produce)
        await self.run.serve_policy(self.settings.output)
        self.run.ledger.note(f"{self.name}: round {number} {why}")
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
            chunks = cut_prompts(prompts, self.settings.prompts_per_chunk, samples=1)
            filled = await in_parallel(
                sampler.chunk(index, [Asked(row) for row in rows], 1, self.policy)
                for index, rows in enumerate(chunks)
            )
            texts = [each.response_text for rollouts in filled for each in rollouts]
            measured = (self.settings.gold_scorer, self.proxy)
            scored = await in_parallel(
                score(self.run, scorer, prompts, texts) for scorer in measured if scorer is not None
            )
            return figures_of_gold(*scored)

        await self.run.durable(self.name, number, "measured", produce)

    def _version_of_round(self, number: int) -> types_pb2.ModelLocation:
        if number == 0:
            return self.run.locate(self.settings.policy)
        row = self.run.ledger.version(self.settings.output, number)
        if row is None:
            raise RunError(f"{self.name}: the ledger has no version {number} to go back to")
        return location(self.settings.output, row)


def figures_of_gold(gold: Sequence[types_pb2.Score], proxy: Sequence[types_pb2.Score] = ()) -> Phase:
    """A measurement: means, and the scores prompt by prompt, since a fall is seen in differences of these."""
    gold_numbers, proxy_numbers = values(gold), values(proxy, normalised=True)
    interval = mean_interval(present(gold_numbers))
    found: Phase = {"gold": interval.mean, "gold_low": interval.low, "gold_high": interval.high}
    if proxy:
        found["proxy"] = mean_interval(present(proxy_numbers)).mean
        found |= {**disagreement_of(proxy), **truncated_of(proxy), "proxy_scores": proxy_numbers}
    return {**found, "gold_scores": gold_numbers}


def figures_of(measured: Phase) -> Phase:
    """A measurement's figures, without the scores that they are made of."""
    return {name: value for name, value in measured.items() if not name.endswith("_scores")}


def disagreement_of(scores: Sequence[types_pb2.Score]) -> Phase:
    """How far an ensemble's members are apart on average; nothing for another scorer."""
    apart = [each.value.disagreement for each in scores if each.value.HasField("disagreement")]
    return {"disagreement": mean_interval(apart).mean} if apart else {}


def truncated_of(scores: Sequence[types_pb2.Score]) -> Phase:
    """Share of the items that the scorer had to cut to its context; nothing where it cut none."""
    scored = [each.value for each in scores if each.WhichOneof("outcome") == "value"]
    cut_off = sum(each.truncated for each in scored)
    return {"reward_truncated_share": cut_off / len(scored)} if cut_off else {}
