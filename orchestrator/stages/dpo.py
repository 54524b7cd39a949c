"""What a DPO round adds to the verbs of every round: pairs with their labels, and a budget of its own.

    rollouts ─► pairs of different responses ─► labels ─► left out: ties, uncertain ones ─► the batch

A pair whose label failed stays in the batch with its error: the trainer leaves it out, by name.
"""

import math
from collections import Counter
from collections.abc import Awaitable, Sequence
from typing import Any

from orchestrator.labelling import Outcome, by_scores, label_pairs, mendable, serve_labellers
from orchestrator.payloads import Payload, write_payload
from orchestrator.peers import in_parallel
from orchestrator.prompts import Asked, Row
from orchestrator.recipe_labels import ScorerLabel
from orchestrator.recipe_rounds import DpoStage
from orchestrator.run import Run, RunError, Stopwatch
from orchestrator.sampling import reference_logprobs, rollouts_path, score_rollouts, values
from orchestrator.seeds import derive
from orchestrator.stages.evaluate import sequence_kl
from orchestrator.stages.online import OnlineRounds, Phase, Rollouts
from orchestrator.stages.pairs import SampledPair, pairs_of
from orchestrator.training import TrainingStage, begin_request, settings_message, stage_model, trained_model
from trueline.v1 import trainer_pb2, types_pb2


class DpoRounds(OnlineRounds):
    """One DPO stage."""

    settings: DpoStage

    def __init__(self, run: Run, name: str, settings: DpoStage) -> None:
        self.proxy, self.hard_budget = settings.proxy_scorer, settings.kl_budget_hard
        super().__init__(run, name, settings)

    def trainer_side(self) -> TrainingStage:
        """Preference steps on the rounds' pairs."""
        step, every = self.run.peers.trainer.preference_step, self.settings.checkpoint_every
        return TrainingStage(self.run, self.name, self._begin_request(), step, self._step_request, every)

    async def serve_others(self) -> None:
        """Brings whoever labels to its newest version."""
        await serve_labellers(self.run, self.settings.label)

    async def sample_and_label(self, number: int, prompts: Sequence[Asked]) -> Phase:
        """The round's pairs, whole and durable; returns what the ledger keeps of them beside the batch."""
        if self.run.ledger.phase(self.name, number, "paired") is None:
            rollouts = await self._sampled(number, prompts)
            pairs, outcomes = await self._labelled(number, prompts, rollouts)
            with mendable(self.run, self.name, number, pairs, outcomes):
                kept, account = self._sorted(pairs, outcomes)
            self.run.mark(self.name, number, "labelled", {**account, **figures(rollouts)}, self.watch)
            watch, batch = Stopwatch(), trainer_pb2.PreferenceBatch(pairs=kept)
            payload = write_payload(rollouts_path(self.run, self.name, number) / "paired.pb", batch)
            self.run.mark(self.name, number, "paired", payload.as_row(), watch)
        return self.run.ledger.phase(self.name, number, "labelled") or {}

    async def _sampled(self, number: int, prompts: Sequence[Asked]) -> Rollouts:
        """Rollouts with their log-probs under the reference, and their scores where a scorer labels."""
        label = self.settings.label

        async def fill(rows: list[Row], rollouts: Rollouts) -> None:
            work: list[Awaitable[None]] = [reference_logprobs(self.run, rollouts, self.reference)]
            if isinstance(label, ScorerLabel):
                work.append(score_rollouts(self.run, label.scorer, rows, rollouts))
            await in_parallel(work)

        return await self.sample(number, prompts, fill)

    async def _labelled(
        self, number: int, prompts: Sequence[Asked], rollouts: Rollouts
    ) -> tuple[list[SampledPair], list[Outcome]]:
        """The pairs, and what whoever labels says of each."""
        label, samples = self.settings.label, self.settings.samples_per_prompt
        scored = isinstance(label, ScorerLabel)
        rows = [each.row for each in prompts for _ in range(samples)]
        pairs = pairs_of(rows, rollouts, samples, self.settings.pairs_per_prompt, scored=scored)
        if isinstance(label, ScorerLabel):
            scores = (values([each.score for each in pair.rollouts], normalised=True) for pair in pairs)
            return pairs, [by_scores(first, second, label) for first, second in scores]
        seed = derive(self.seed, number)
        return pairs, await label_pairs(self.run, self.name, number, pairs, label, seed, turn=number - 1)

    def _sorted(
        self, pairs: Sequence[SampledPair], outcomes: Sequence[Outcome]
    ) -> tuple[list[trainer_pb2.PreferencePair], dict[str, Any]]:
        """The batch, and how many pairs were left out of it or have no label, by reason."""
        kept: list[trainer_pb2.PreferencePair] = []
        left_out, missing, sources = Counter[str](), Counter[str](), Counter[str]()
        for pair, outcome in zip(pairs, outcomes, strict=True):
            why = self._left_out(outcome)
            if why:
                left_out[why] += 1
                continue
            sources[outcome.source] += outcome.probability is not None
            missing[outcome.reason] += outcome.failed
            kept.append(pair.as_message(outcome))
        if kept and self._is_one_prompt(kept) and not +missing:
            left_out["one_prompt"], sources, kept = len(kept), Counter(), []
        counts = {"left_out": dict(left_out), "missing": dict(+missing), "sources": dict(+sources)}
        self._refuse_missing(kept, +missing, counts)
        return kept, {"pairs": len(pairs), **counts}

    def _left_out(self, outcome: Outcome) -> str:
        """Why a pair is not in the batch; "" where its label can be learned from, or failed."""
        if outcome.probability is None:
            return "" if outcome.failed else outcome.reason
        certainty = abs(2 * outcome.probability - 1)
        if certainty == 0:
            return "tie"
        return "uncertain" if certainty < self.settings.min_certainty else ""

    def _is_one_prompt(self, kept: Sequence[trainer_pb2.PreferencePair]) -> bool:
        """True where the pairs that have a label are of one prompt and the loss needs those of another."""
        labelled = [pair.sampled for pair in kept if pair.WhichOneof("preference") == "probability"]
        return self.settings.algorithm.mismatches and len({tuple(p.first.prompt_ids) for p in labelled}) < 2

    def _refuse_missing(
        self, kept: Sequence[trainer_pb2.PreferencePair], missing: Counter[str], counts: dict[str, Any]
    ) -> None:
        """RunError where too many labels are missing, or all of those that could be learned from."""
        failed, limit = missing.total(), self.settings.algorithm.max_missing_share
        if failed > limit * len(kept):
            reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(missing.items()))
            raise RunError(
                f"{self.name}: {failed} of {len(kept)} pairs have no label, more than max_missing_share "
                f"({limit:g}) allows: {reasons}. Mend who labels and resume"
            )
        if failed and (len(kept) == failed or self._is_one_prompt(kept)):
            raise RunError(f"{self.name}: no pair is left to learn from: {counts}")

    def result(self) -> dict[str, Any]:
        """What the stage made, and who labelled."""
        sources = Counter[str]()
        for labelled in self.run.ledger.all_phases(self.name, "labelled").values():
            sources.update(labelled["sources"])
        return {**super().result(), "sources": dict(sources)}

    def over_budget(self, labelled: Phase) -> bool:
        """True when the batch reached the hard KL budget: nothing may train on it."""
        hard = self.hard_budget
        return bool(hard) and labelled.get("kl_reference_k1", 0.0) >= hard

    def has_no_pair(self, labelled: Phase) -> bool:
        """True when whoever labelled told no response from another: there is nothing to train on."""
        return bool(labelled["pairs"] == sum(labelled["left_out"].values()))

    async def end(self, number: int, labelled: Phase) -> None:
        """Ends the stage at a round that teaches nothing, with the weights that it sampled from."""
        why = f"left no pair to learn from ({labelled['left_out'] or 'all responses alike'})"
        last = f"its weights are version {number}, the stage's last"
        await self.end_at(number, number - 1, labelled.get("kl_reference_k1"), f"{why}; {last}")

    async def commit(self, number: int, labelled: Phase, trained: Phase) -> None:
        """Closes the round; with what sampling and labelling gave, and training."""
        soft = self.settings.kl_budget_soft
        counts = {
            "pairs": labelled["pairs"],
            "pairs_left_out": labelled["left_out"],
            "pairs_missing": labelled["missing"],
            "sources": labelled["sources"],
            "excluded": trained["excluded"],
            "kl_budget": "warn" if soft and labelled.get("kl_reference_k1", 0.0) >= soft else "ok",
        }
        numbers = {name: labelled[name] for name in FIGURES if name in labelled}
        await self.close(number, {**trained["metrics"], **numbers, **counts})

    def _step_request(self, number: int) -> trainer_pb2.PreferenceStepRequest:
        paired = self.run.ledger.phase(self.name, number, "paired")
        assert paired is not None, f"{self.name} {number} trains before it is labelled"
        return trainer_pb2.PreferenceStepRequest(artifact=Payload(**paired).as_artifact())

    def _begin_request(self) -> trainer_pb2.BeginStageRequest:
        settings = self.settings
        algorithm = settings_message(trainer_pb2.PreferenceSettings, settings.algorithm.model_dump())
        pairs = settings.prompts_per_round * settings.pairs_per_prompt
        updates = settings.algorithm.epochs * math.ceil(pairs / settings.algorithm.minibatch_size)
        algorithm.total_updates = settings.rounds * updates
        models = [trained_model(self.run.locate(settings.policy))]
        if settings.algorithm.mismatches:
            reference = self.run.locate(settings.reference)
            models.append(stage_model(trainer_pb2.MODEL_ROLE_REFERENCE, reference))
        return begin_request(self.run, self.name, settings.output, models, preference=algorithm)


FIGURES = ("rollouts", "response_tokens_mean", "ended_share", "kl_reference_k1", "kl_reference_k3")


def figures(rollouts: Rollouts) -> dict[str, float]:
    """What rollouts say of the policy that drew them; KL to the reference, where there is one, in nats per
    sequence."""
    count = len(rollouts)
    ended = [each.finish_reason != types_pb2.FINISH_REASON_LENGTH for each in rollouts]
    found = {
        "rollouts": float(count),
        "response_tokens_mean": sum(len(each.response_ids) for each in rollouts) / count,
        "ended_share": sum(ended) / count,
    }
    return found | {f"kl_reference_{name}": kl["mean"] for name, kl in sequence_kl(rollouts).items()}
