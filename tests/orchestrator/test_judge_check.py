"""A judge asked about pairs whose answer is known: what it says is measured, what fails is no measurement."""

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.recipe_judge import JudgeCheckStage
from orchestrator.run import RunError
from orchestrator.stages.judge_check import run_judge_check
from tests.judge.scripted_endpoint import Reply
from tests.orchestrator.test_labelling import good_wins, judged_run, label


def stage(tmp_path: Path, rows: list[dict[str, Any]], **changes: Any) -> JudgeCheckStage:
    """A check of these rows."""
    data = tmp_path / "known.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return JudgeCheckStage(kind="judge_check", data=str(data), label=label(), **changes)


def known(count: int) -> list[dict[str, Any]]:
    """Pairs of which the judge of `good_wins` knows the answer."""
    return [{"text": f"q{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(count)]


async def test_an_outage_is_no_measurement_and_a_resume_asks_again(tmp_path: Path) -> None:
    down = True

    def script(told: str, before: int) -> Any:
        if down and "good 1" in told:
            return Reply(status=404, body={"error": {"message": "loading"}})
        return good_wins(told, before)

    async with judged_run(tmp_path, script) as (run, served):
        settings = stage(tmp_path, known(6))
        with pytest.raises(RunError, match=r"1 of 6 pairs have no label, .* max_missing_share \(0.1\)"):
            await run_judge_check(run, "check", settings)
        down, asked = False, len(served.bodies)
        found = await run_judge_check(run, "check", settings)
        assert len(served.bodies) == asked + 2, "both orders of the pair that failed"
    assert found["accuracy"]["value"] == 1.0 and found["accuracy"]["n"] == 6 and found["abstained"] == {}


async def test_a_few_failures_are_counted(tmp_path: Path) -> None:
    def script(told: str, before: int) -> Any:
        return Reply(status=404) if "good 1" in told else good_wins(told, before)

    async with judged_run(tmp_path, script) as (run, _):
        found = await run_judge_check(run, "check", stage(tmp_path, known(6), max_missing_share=0.2))
    assert found["accuracy"]["n"] == 5 and found["abstained"] == {"endpoint_refused": 1}


async def test_of_a_ranking_every_pair_is_asked(tmp_path: Path) -> None:
    ranking = {"text": "q", "responses": ["bad 9", "good 9", "bad 8"], "ranking": [1, 0, 2]}
    async with judged_run(tmp_path, good_wins) as (run, _):
        found = await run_judge_check(run, "check", stage(tmp_path, [*known(1), ranking]))
        asked = [(row["item"], {row["first"], row["second"]}) for row in run.ledger.labels_of("check", 1)]
    assert asked == [
        ("pair-0", {"good 0", "bad 0"}),
        ("pair-1/1-0", {"good 9", "bad 9"}),
        ("pair-1/1-2", {"good 9", "bad 8"}),
        ("pair-1/0-2", {"bad 9", "bad 8"}),
    ]
    assert (
        found["pairs"] == 4 and found["accuracy"]["n"] == 3 and found["abstained"] == {"orders_disagree": 1}
    )
