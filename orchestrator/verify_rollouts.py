"""Recounts a run's rollouts: each asked for, sampled, scored, and trained in one step or left out by name."""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.accounts import Name, account_of, name_of_rollout, names_sha256
from orchestrator.data import read_prompts
from orchestrator.payloads import Payload, PayloadError, read_payload
from orchestrator.recipe import Recipe
from orchestrator.recipe_rounds import OnlineStage
from orchestrator.seeds import derive, prompts_at
from orchestrator.sources import rows_of
from orchestrator.statistics import mean_of, two_samples
from orchestrator.verify_findings import Finding, Row, Rows
from orchestrator.verify_rows import place
from trueline.v1 import trainer_pb2, types_pb2

BIAS_P_VALUE = 0.001  # below it the lengths that trained are not those that were sampled
Rollouts = list[types_pb2.Rollout]


class RoundCount:
    """Recounts what the rounds of one stage sampled; an algorithm's own recounts what trained of it.

    The lengths that it meets are kept for the comparison.
    """

    def __init__(
        self, rows: Rows, recipe: Recipe, stage: str, settings: OnlineStage, directory: Path
    ) -> None:
        self.rows, self.stage, self.settings = rows, stage, settings
        self.seed = derive(recipe.seed, stage)
        fitting = rows.phase(stage, 0, "fitting-prompts")
        too_long = fitting["output"]["too_long"] if fitting and settings.too_long == "drop" else {}
        read = [row["prompt_id"] for row in rows_of(directory, read_prompts, settings.prompts)]
        self.prompts = [prompt for prompt in read if prompt not in too_long]
        self.sampled_lengths: list[int] = []
        self.trained_lengths: list[int] = []

    def check(self) -> Iterator[Finding]:
        """Every round."""
        for row in self.rows.rounds(self.stage):
            if row["payloads_removed_at"] is not None:
                yield from self._check_account(row)
            else:
                yield from self._check_payloads(row)

    def figures(self) -> dict[str, Any]:
        """Counts and mean lengths of what was sampled and what trained, and how far apart they are."""
        found = two_samples(self.sampled_lengths, self.trained_lengths)
        return {
            "sampled": {
                "rollouts": len(self.sampled_lengths),
                "mean_tokens": mean_of(self.sampled_lengths),
            },
            "trained": {
                "rollouts": len(self.trained_lengths),
                "mean_tokens": mean_of(self.trained_lengths),
            },
            "distance": found and found.distance,
            "p_value": found and found.p_value,
        }

    def _expected(self, row: Row) -> list[Name]:
        """The rollouts that the round's places of the cursor ask for, in order."""
        samples = self.settings.samples_per_prompt
        count = row["cursor_end"] - row["cursor_start"]
        places = prompts_at(row["cursor_start"], count, len(self.prompts), self.seed)
        return [
            (self.prompts[index], epoch * samples + sample)
            for index, epoch in places
            for sample in range(samples)
        ]

    def _check_account(self, row: Row) -> Iterator[Finding]:
        """A round whose payloads are gone: what the ledger kept of them."""
        where, expected = f"{self.stage} {row['round']}", self._expected(row)
        sampled = self._output(row, "sampled")
        if sampled.get("names_sha256") != names_sha256(expected):
            told = "the cursor's prompts, each once"
            yield Finding("prompt_missing", f"{where} sampled", "another list of rollouts", told)
        yield from self._recount(row, expected, sampled.get("lengths", []))

    def _check_payloads(self, row: Row) -> Iterator[Finding]:
        chunks = self.rows.chunks(self.stage, row["round"])
        if not chunks:
            return  # a round that has just begun; a closed one lacks its phases, which is said there
        read = [self._read(chunk) for chunk in chunks]
        if any(each is None for each in read):
            return  # said where payloads are digested
        sampled = [rollout for each in read if each is not None for rollout in each]
        yield from self._check_sampled(row, chunks, sampled)
        yield from self._check_trained(row, sampled)

    def _check_trained(self, row: Row, sampled: Rollouts) -> Iterator[Finding]:
        """What trained, and on what, beside what was sampled."""
        raise NotImplementedError

    def _recount(self, row: Row, names: list[Name], lengths: list[int]) -> Iterator[Finding]:
        """Each of what was sampled trains in one step or is left out; adds up the lengths."""
        raise NotImplementedError

    def _check_sampled(self, row: Row, chunks: list[Row], sampled: Rollouts) -> Iterator[Finding]:
        """What was sampled is what the cursor asks for; in a round under way, as far as it has come."""
        where = f"{self.stage} {row['round']}"
        account = self._output(row, "sampled")
        names = Counter(map(name_of_rollout, sampled))
        expected = Counter(self._expected(row))
        for prompt, sample in names - expected:
            twice = (prompt, sample) in expected
            kind = "prompt_repeated" if twice else "prompt_unknown"
            told = "once" if twice else "not in this round"
            yield Finding(kind, where, f"prompt {prompt} sample {sample} sampled", told)
        if account:
            for prompt, sample in expected - names:
                yield Finding("prompt_missing", where, f"prompt {prompt} sample {sample} not sampled", "once")
            if account["chunks"] != len(chunks):
                found = f"{len(chunks)} chunks"
                yield Finding("chunk_missing", f"{where} sampled", found, f"{account['chunks']}")
            kept = {name: account[name] for name in account if name != "chunks"}
            if kept and kept != account_of(sampled):
                yield Finding("account", f"{where} sampled", "names or lengths differ", "those of the chunks")

    def _output(self, row: Row, phase: str) -> dict[str, Any]:
        found = self.rows.phase(self.stage, row["round"], phase)
        return found["output"] if found else {}

    def _read(self, row: Row) -> Rollouts | None:
        try:
            return list(read_payload(Payload(**row["output"]), trainer_pb2.PpoBatch).rollouts)
        except PayloadError:
            return None


class RolloutCount(RoundCount):
    """Recounts the rounds of one PPO stage."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.trained_in: dict[Name, int] = {}

    def check(self) -> Iterator[Finding]:
        """Every round, then what only shows over all of them."""
        yield from super().check()
        found = two_samples(self.sampled_lengths, self.trained_lengths)
        if found is not None and found.p_value < BIAS_P_VALUE:
            means = [mean_of(each) for each in (self.trained_lengths, self.sampled_lengths)]
            yield Finding(
                "length_bias", self.stage, f"trained responses have {means[0]:.1f} tokens on average",
                f"{means[1]:.1f}, as sampled (Kolmogorov-Smirnov p = {found.p_value:.2g})",
            )  # fmt: skip

    def _check_trained(self, row: Row, sampled: Rollouts) -> Iterator[Finding]:
        """What trained, and on what, beside what was sampled."""
        scored_row = self.rows.phase(self.stage, row["round"], "scored")
        scored = self._read(scored_row) if scored_row else None
        if scored_row is None or scored is None:
            return
        yield from self._check_scored(place(scored_row), sampled, scored)
        trained_row = self.rows.phase(self.stage, row["round"], "trained")
        if trained_row is None:
            return
        yield from check_excluded(place(trained_row), trained_row["output"], scored)
        yield from check_digest(trained_row, scored_row)
        lengths = [len(each.response_ids) for each in scored]
        yield from self._recount(row, list(map(name_of_rollout, scored)), lengths)

    def _check_scored(self, where: str, sampled: Rollouts, scored: Rollouts) -> Iterator[Finding]:
        """Every rollout that was sampled was scored, and is the same but for what scoring fills in."""
        before = {name_of_rollout(each): each for each in sampled}
        after = Counter(map(name_of_rollout, scored))
        for prompt, sample in before.keys() - after.keys():
            yield Finding(
                "rollout_lost", where, f"prompt {prompt} sample {sample} is not in the batch", "once"
            )
        for (prompt, sample), count in after.items():
            if count > 1 or (prompt, sample) not in before:
                told = "once" if (prompt, sample) in before else "not at all, as it was not sampled"
                yield Finding(
                    "rollout_repeated", where, f"prompt {prompt} sample {sample}, {count} times", told
                )
        for each in scored:
            drawn = before.get(name_of_rollout(each))
            if drawn is not None and as_drawn(each) != as_drawn(drawn):
                found = f"prompt {each.prompt_id} sample {each.sample_index} has other tokens"
                yield Finding("rollout_changed", where, found, "those that were sampled")

    def _recount(self, row: Row, names: list[Name], lengths: list[int]) -> Iterator[Finding]:
        """Each rollout trains in one step, or is left out by its row; adds up the lengths."""
        where, trained = f"{self.stage} {row['round']} trained", self._output(row, "trained")
        if not trained:
            return
        self.sampled_lengths += lengths
        if not trained["trained"]:
            return  # the budget stopped the step: its rollouts are accounted for by the rollback
        out = {index for index, _ in trained.get("excluded_rows", [])}
        for index, name in enumerate(names):
            if index in out:
                continue
            if name in self.trained_in:
                found = f"prompt {name[0]} sample {name[1]} trained in round {self.trained_in[name]} too"
                yield Finding("trained_twice", where, found, "once")
            self.trained_in.setdefault(name, row["round"])
        self.trained_lengths += [length for index, length in enumerate(lengths) if index not in out]
        left_out, counted = sum(trained["excluded"].values()), trained["metrics"].get("rollouts")
        if counted is not None and counted + left_out != len(names):
            found = f"{counted:g} trained and {left_out} left out"
            yield Finding("rollout_lost", where, found, f"{len(names)} in all")


def check_digest(trained: Row, batch: Row) -> Iterator[Finding]:
    """The step trained on the batch that was kept for it."""
    digest, kept = trained["output"].get("batch_sha256"), batch["output"]["sha256"]
    if digest is not None and digest != kept:
        yield Finding("batch_changed", place(trained), f"batch {digest}", f"{kept}, as {batch['phase']}")


def check_excluded(where: str, trained: dict[str, Any], scored: Rollouts) -> Iterator[Finding]:
    """Exactly the rollouts without a usable score are left out, each by its row and a reason."""
    if "excluded_rows" not in trained or not trained["trained"]:
        return
    said = Counter(index for index, _ in trained["excluded_rows"])
    unusable = {index for index, each in enumerate(scored) if not usable(each.score)}
    for index in sorted(unusable - said.keys()):
        yield Finding("rollout_unscored", where, f"row {index} trained without a score", "left out")
    for index, count in said.items():
        if index not in unusable or count > 1:
            found = f"row {index} left out {count} times"
            yield Finding("rollout_left_out", where, found, "trained" if index not in unusable else "once")
    if Counter(reason for _, reason in trained["excluded_rows"]) != Counter(trained["excluded"]):
        counts = ", ".join(f"{reason} {n}" for reason, n in sorted(trained["excluded"].items())) or "none"
        yield Finding("rollout_left_out", where, "rows and counts of reasons differ", counts)


def usable(score: types_pb2.Score) -> bool:
    """True where a score may train: a value, and finite."""
    value = score.value
    known = score.WhichOneof("outcome") == "value"
    return known and math.isfinite(value.raw) and math.isfinite(value.normalised)


def as_drawn(rollout: types_pb2.Rollout) -> bytes:
    """The part that sampling set."""
    drawn = types_pb2.Rollout()
    drawn.CopyFrom(rollout)
    for name in ("reference_logprobs", "reference_version", "score", "scorer"):
        drawn.ClearField(name)
    return drawn.SerializeToString(deterministic=True)
