"""What a report says of runs with several stages of a kind, and of prompts that lack a score."""

from pathlib import Path

import pytest

from orchestrator.ledger import Ledger, open_engine, sqlite_url
from orchestrator.recipe_evaluation import EvaluateStage
from orchestrator.stages.evaluate import against_gold
from orchestrator.summary import summarise


def test_rounds_of_two_stages_are_not_mixed_and_the_ones_left_out_are_named(tmp_path: Path) -> None:
    ledger = Ledger(open_engine(sqlite_url(tmp_path)), "r")
    ledger.create(seed=0, recipe={"stages": {}}, recipe_sha256="r", code_sha256="c")
    ledger.take_lease()
    ledger.begin_stage("dpo", "dpo", 1)
    for number in (1, 2, 3, 4, 5):
        ledger.begin_round("dpo", number, 4)
        metrics = {"rollouts": 8.0, "generated_tokens": 64.0, "gold": 1.0, "kl_reference_k1": 0.1 * number}
        ledger.commit_round("dpo", number, metrics, 2.0)
    before = summarise(ledger)
    assert len(before["rounds"]) == 5 and before["throughput"]["rollouts_per_second"] == 4.0
    ledger.finish_stage("dpo", {"rounds": 5})
    ledger.begin_stage("ppo", "ppo", 2)
    after = summarise(ledger)
    assert after["rounds"] == [] and "throughput" not in after and "over_optimisation" not in after
    assert after["notes"] == ["rounds, throughput and curves are those of ppo; not shown: dpo"]
    assert before["notes"] == []


def test_a_prompt_without_a_gold_score_is_as_if_it_were_not_there() -> None:
    settings = EvaluateStage(
        kind="evaluate", before="a", after="b", reference="a", prompts="p.jsonl", gold_scorer="gold",
        best_scorer="best", ceilings={"manners": "manners"}, sampling={"max_new_tokens": 8},
    )  # fmt: skip
    whole = {
        "before": {"gold": [1.0, 0.0], "best": [2.0, 4.0], "manners": [1.5, 3.0]},
        "after": {"gold": [2.0, 1.0]},
    }
    lacking = {
        "before": {"gold": [1.0, None, 0.0], "best": [2.0, 10.0, 4.0], "manners": [1.5, 9.0, 3.0]},
        "after": {"gold": [2.0, 5.0, 1.0]},
    }
    assert against_gold(settings, lacking) == against_gold(settings, whole)  # type: ignore[arg-type]
    found = against_gold(settings, whole)  # type: ignore[arg-type]
    assert found["best_gold"] == 3.0 and found["gap_closed"] == pytest.approx(1.0 / 2.5)
    assert found["ceilings"] == {"manners": 2.25}
    no_best = {"before": {**lacking["before"], "best": [2.0, 10.0, None]}, "after": lacking["after"]}
    only_first = against_gold(settings, no_best)  # type: ignore[arg-type]
    assert only_first["best_gold"] == 2.0 and only_first["gap_closed"] == 1.0
    assert only_first["win_rate"] == found["win_rate"]
