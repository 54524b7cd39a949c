"""Recounts a DPO run's pairs: each of two answers of its round, labelled, and trained or left out by name."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from orchestrator.accounts import Name, name_of_rollout
from orchestrator.payloads import Payload, PayloadError, read_payload
from orchestrator.verify_findings import Finding, Row
from orchestrator.verify_rollouts import Rollouts, RoundCount, as_drawn, check_digest
from orchestrator.verify_rows import place
from trueline.v1 import trainer_pb2

Pairs = list[trainer_pb2.PreferencePair]
NO_LABEL = "preference_"  # how the trainer's reasons begin for a pair that nobody labelled


class PairCount(RoundCount):
    """Recounts the rounds of one DPO stage. A response may stand in several pairs, and in none."""

    def _check_trained(self, row: Row, sampled: Rollouts) -> Iterator[Finding]:
        """The batch is made of what was sampled, and what has no label did not train."""
        paired = self.rows.phase(self.stage, row["round"], "paired")
        pairs = self._pairs(paired) if paired else None
        if paired is None or pairs is None:
            return
        yield from check_sides(place(paired), pairs, sampled)
        yield from check_account(place(paired), pairs, self._output(row, "labelled"))
        trained = self.rows.phase(self.stage, row["round"], "trained")
        if trained is None:
            return
        yield from check_digest(trained, paired)
        yield from check_labels(place(trained), pairs, trained["output"])
        yield from self._recount(row, [], [len(each.response_ids) for each in sampled])
        out = {index for index, _ in trained["output"].get("excluded_rows", [])}
        self.trained_lengths += [
            len(side.response_ids)
            for index, pair in enumerate(pairs)
            if index not in out
            for side in (pair.sampled.first, pair.sampled.second)
        ]

    def _recount(self, row: Row, names: list[Name], lengths: list[int]) -> Iterator[Finding]:
        """Each pair of the batch trained or was left out, as far as the ledger's counts tell."""
        trained, labelled = self._output(row, "trained"), self._output(row, "labelled")
        if not trained or not labelled:  # a missing phase is a finding of its own
            return
        self.sampled_lengths += lengths
        kept = labelled["pairs"] - sum(labelled["left_out"].values())
        left_out, counted = sum(trained["excluded"].values()), trained["metrics"].get("rows")
        if counted is not None and counted + left_out != kept:
            where = f"{self.stage} {row['round']} trained"
            yield Finding(
                "pair_lost", where, f"{counted:g} trained and {left_out} left out", f"{kept} in all"
            )

    def _pairs(self, row: Row) -> Pairs | None:
        try:
            return list(read_payload(Payload(**row["output"]), trainer_pb2.PreferenceBatch).pairs)
        except PayloadError:
            return None  # said where payloads are digested


def check_sides(where: str, pairs: Pairs, sampled: Rollouts) -> Iterator[Finding]:
    """Both sides of a pair answer one prompt, as they were sampled; no two pairs are the same."""
    drawn = {name_of_rollout(each): as_drawn(each) for each in sampled}
    seen: set[frozenset[Name]] = set()
    for index, pair in enumerate(pairs):
        sides = (pair.sampled.first, pair.sampled.second)
        names = frozenset(map(name_of_rollout, sides))
        if {side.prompt_id for side in sides} != {pair.prompt_id} or len(names) != 2:
            yield Finding(
                "pair_mixed", where, f"pair {index} of {sorted(names)}", "two answers to one prompt"
            )
        if names in seen:
            yield Finding("pair_repeated", where, f"pair {index} of {sorted(names)} again", "once")
        seen.add(names)
        for side in sides:
            name = name_of_rollout(side)
            if drawn.get(name) != as_drawn(side):
                known = "other tokens" if name in drawn else "no such rollout"
                found = f"pair {index}, prompt {name[0]} sample {name[1]}: {known}"
                yield Finding("rollout_changed", where, found, "what was sampled")


def check_account(where: str, pairs: Pairs, labelled: dict[str, Any]) -> Iterator[Finding]:
    """What labelling says it made is what the batch holds."""
    if not labelled:
        return
    missing = Counter(pair.error.reason for pair in pairs if pair.WhichOneof("preference") != "probability")
    expected = labelled["pairs"] - sum(labelled["left_out"].values())
    if (len(pairs), dict(missing)) != (expected, labelled["missing"]):
        found = f"{len(pairs)} pairs, without a label: {dict(missing)}"
        yield Finding("pair_lost", where, found, f"{expected}, without a label: {labelled['missing']}")


def check_labels(where: str, pairs: Pairs, trained: dict[str, Any]) -> Iterator[Finding]:
    """Exactly the pairs without a label are left out for having none."""
    if "excluded_rows" not in trained or not trained["trained"]:
        return
    said = {index: reason for index, reason in trained["excluded_rows"]}
    without = {i for i, pair in enumerate(pairs) if pair.WhichOneof("preference") != "probability"}
    for index in sorted(without - said.keys()):
        yield Finding("pair_unlabelled", where, f"pair {index} trained without a label", "left out")
    for index, reason in said.items():
        if reason.startswith(NO_LABEL) and index not in without:
            yield Finding("pair_left_out", where, f"pair {index} left out: {reason}", "trained")
