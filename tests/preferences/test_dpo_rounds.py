"""Rounds of iterative DPO over real services: what is paired, what trains, and what stops."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orchestrator.payloads import Payload, read_payload
from orchestrator.recipe_rounds import DpoStage
from orchestrator.report_tables import all_tables
from orchestrator.rounds import run_dpo
from orchestrator.run import Run, RunError
from orchestrator.summary import summarise
from tests.preferences.whole_run import ALGORITHM, DPO, recounted, whole_run
from trueline.v1 import trainer_pb2


async def done(run: Run) -> dict[str, Any]:
    """The stage, from begin to end."""
    settings = run.recipe.stages["dpo"]
    assert isinstance(settings, DpoStage)
    return await run_dpo(run, "dpo", settings)


def batch(run: Run, number: int) -> list[trainer_pb2.PreferencePair]:
    row = run.ledger.phase("dpo", number, "paired")
    assert row is not None
    return list(read_payload(Payload(**row), trainer_pb2.PreferenceBatch).pairs)


async def test_rounds_pair_what_the_policy_says_and_move_it(tmp_path: Path) -> None:
    async with whole_run(tmp_path, {"dpo": dict(DPO)}) as run:
        assert await done(run) == {
            "rounds": 2,
            "committed": 2,
            "model": "policy",
            "sources": {"simulated:words": 24},
        }
        again = await done(run)  # nothing is left to do
    assert again["committed"] == 2
    first, second = (row.metrics for row in run.ledger.all_rounds("dpo"))
    # The policy was its reference: what the losses' definitions say of that, through every service.
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-4)
    for name in ("margin_mean", "reward_chosen", "kl_reference_k1", "kl_reference_k3"):
        assert first[name] == pytest.approx(0, abs=1e-4), name
    assert abs(second["kl_reference_k1"]) > 1e-4 and second["kl_reference_k3"] > 0
    assert first["rollouts"] == 24 and first["pairs"] == 12 and first["rows"] == 12
    for pair in batch(run, 1):
        words = [len(side.response_text.split()) for side in (pair.sampled.first, pair.sampled.second)]
        if words[0] != words[1] and abs(words[0] - words[1]) > 4:
            assert pair.probability == float(words[0] > words[1]), "labels lean to longer answers"
        assert pair.sampled.first.reference_logprobs and pair.sampled.first.prompt_id == pair.prompt_id
    assert first["gold"] >= 0 and "proxy" not in first
    report = summarise(run.ledger)
    assert len(report["rounds"]) == 2 and "overoptimisation" not in report, "nothing stands for gold"
    assert any(table.title == "Pairs of the rounds" for table in all_tables(report))
    verdict = recounted(run)
    assert [each for each in verdict.findings if each.kind != "stage_order"] == []
    assert verdict.figures["lengths"]["dpo"]["sampled"]["rollouts"] == 48


async def test_a_scorers_pairs_are_the_best_against_the_worst(tmp_path: Path) -> None:
    label = {"kind": "scorer", "scorer": "words"}
    stage = {**DPO, "label": label, "pairs_per_prompt": 1, "samples_per_prompt": 5, "rounds": 1}
    async with whole_run(tmp_path, {"dpo": stage}) as run:
        await done(run)
    labelled = run.ledger.phase("dpo", 1, "labelled") or {}
    pairs = batch(run, 1)
    assert labelled["pairs"] == len(pairs) + sum(labelled["left_out"].values()) and pairs
    for pair in pairs:
        words = [len(side.response_text.split()) for side in (pair.sampled.first, pair.sampled.second)]
        assert pair.probability == 1.0 and words[0] > words[1], "the better one first, by its score"


async def test_a_pair_without_a_label_is_told_and_never_trains(tmp_path: Path) -> None:
    algorithm = {**ALGORITHM, "max_missing_share": 0.95}
    stage = {**DPO, "label": {"kind": "simulated", "scorer": "even"}, "rounds": 1, "algorithm": algorithm}
    async with whole_run(tmp_path, {"dpo": stage}) as run:
        await done(run)
    (row,) = run.ledger.all_rounds("dpo")
    missing = [pair for pair in batch(run, 1) if pair.WhichOneof("preference") != "probability"]
    assert missing and {pair.error.reason for pair in missing} == {"unscored"}
    assert row.metrics["pairs_missing"] == {"unscored": len(missing)}
    assert row.metrics["excluded"] == {"preference_failed": len(missing)}
    assert row.metrics["rows"] + len(missing) == len(batch(run, 1))
    assert [each for each in recounted(run).findings if each.kind != "stage_order"] == []


async def test_too_many_missing_labels_stop_the_round_before_anything_trains(tmp_path: Path) -> None:
    stage = {**DPO, "label": {"kind": "simulated", "scorer": "even"}}
    async with whole_run(tmp_path, {"dpo": stage}) as run:
        with pytest.raises(RunError, match=r"pairs have no label, more than max_missing_share \(0.1\)"):
            await done(run)
    phases = Counter(row["phase"] for row in run.ledger.phase_rows() if row["round"] == 1)
    assert phases["sampled"] == 1 and not phases["paired"] and not phases["trained"]


async def test_a_hard_kl_budget_goes_back_to_the_version_before(tmp_path: Path) -> None:
    hot = {**ALGORITHM, "optimizer": {"learning_rate": 0.1}}
    stage = {**DPO, "rounds": 4, "kl_budget_hard": 0.01, "algorithm": hot}
    async with whole_run(tmp_path, {"dpo": stage}) as run:
        result = await done(run)
    ((number, back),) = run.ledger.all_phases("dpo", "rolled_back").items()
    assert back["kl"] >= 0.01 and back["good"] == number - 2 and back["number"] == number >= 2
    assert result["rounds"] == number and run.ledger.phase("dpo", number, "trained") is None
    newest = run.ledger.latest_version("policy")
    assert newest is not None and newest["number"] == number
    assert [each for each in recounted(run).findings if each.kind != "stage_order"] == []


async def test_kto_has_the_trainer_hold_the_reference(tmp_path: Path) -> None:
    stage = {**DPO, "rounds": 1, "algorithm": {**ALGORITHM, "loss": "kto"}}
    async with whole_run(tmp_path, {"dpo": stage}) as run:
        await done(run)
    (row,) = run.ledger.all_rounds("dpo")
    assert row.metrics["loss"] == pytest.approx(0.5, abs=1e-4)


async def test_kto_ends_at_a_round_whose_pairs_are_of_one_prompt(tmp_path: Path) -> None:
    """Nothing of the round is trained, and a resume finds the same end."""
    stage = {**DPO, "prompts_per_round": 1, "algorithm": {**ALGORITHM, "loss": "kto"}}
    async with whole_run(tmp_path, {"dpo": stage}) as run:
        result = await done(run)
        assert await done(run) == result
        labelled = run.ledger.phase("dpo", 1, "labelled") or {}
        version, notes = run.ledger.latest_version("policy"), run.ledger.info()["notes"]
    assert labelled["left_out"] == {"one_prompt": labelled["pairs"]} and labelled["sources"] == {}
    assert result["committed"] == 0 and run.ledger.phase("dpo", 1, "trained") is None
    assert version is not None and version["number"] == 1 and "left no pair to learn from" in notes[-1]
    assert [each for each in recounted(run).findings if each.kind != "stage_order"] == []
