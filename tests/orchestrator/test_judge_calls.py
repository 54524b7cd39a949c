"""How the judge is called: one judge a stage, two calls at once, no more than can be answered in time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.evaluation.judged import ask_scores
from orchestrator.judge_calls import items_per_call, judge_expected
from orchestrator.labelling import label_pairs
from orchestrator.recipe_settings import JudgeSettings
from orchestrator.run import Run, RunError
from tests.judge.hosting import CONSTITUTION, write_constitution
from tests.judge.scripted_endpoint import Endpoint, Reply, says
from tests.orchestrator.test_labelling import good_wins, judged_run, label, pairs
from trueline import CallError, JudgeClient
from trueline.v1 import types_pb2

PER_MINUTE, SECONDS = 3000.0, 4.0  # 200 requests before a call's deadline


def answers(count: int) -> list[tuple[dict[str, Any], str]]:
    return [({"prompt_id": f"p{n}", "text": f"question {n}"}, f"answer {n}") for n in range(count)]


def worth_seven(told: str, before: int) -> Reply:
    return says("7")


def slowed(run: Run, per_minute: float = PER_MINUTE, seconds: float = SECONDS, **judge: Any) -> None:
    """The run's recipe says what its judge's pace is, and how long a call may take."""
    services, supervision = run.recipe.services, run.recipe.supervision
    asked = JudgeSettings(**{"requests_per_minute": per_minute, **judge})
    changes = {
        "services": services.model_copy(update={"judge": asked}),
        "supervision": supervision.model_copy(update={"call_seconds": seconds}),
    }
    run.recipe = run.recipe.model_copy(update=changes)


@asynccontextmanager
async def slow_run(tmp_path: Path, script: Any) -> AsyncIterator[tuple[Run, Endpoint]]:
    """A run whose judge keeps to a pace that the recipe names."""
    async with judged_run(tmp_path, script, {"requests_per_minute": PER_MINUTE}) as (run, served):
        slowed(run)
        yield run, served


def calls_at_once(run: Run) -> list[int]:
    """How many calls to the judge are under way, told at the beginning of each."""
    ask, under_way, seen = run.ask, 0, []

    async def counted(service: str, call: Any) -> Any:
        nonlocal under_way
        under_way += service == "judge"
        seen.append(under_way)
        try:
            return await ask(service, call)
        finally:
            under_way -= service == "judge"

    run.ask = counted  # type: ignore[method-assign]
    return seen


async def test_scores_are_asked_for_in_two_calls_at_once_and_no_more(tmp_path: Path) -> None:
    async with judged_run(tmp_path, worth_seven) as (run, served):
        seen = calls_at_once(run)
        found = await ask_scores(run, "assess", "scores", label(pairs_per_call=1), answers(6))
    assert max(seen) == 2 and len(served.bodies) == 12, "two principles each"
    assert [each.score for each in found] == [7.0] * 6


async def test_a_slow_endpoint_loses_no_label(tmp_path: Path) -> None:
    """A call of all 64 pairs would make 256 requests, more than there is time for."""
    async with slow_run(tmp_path, good_wins) as (run, served):
        outcomes = await label_pairs(run, "collect", 1, pairs(64), label(choice="ensemble"), seed=3)
    assert [each.reason for each in outcomes if each.probability is None] == []
    assert len(served.bodies) == 256


async def test_a_slow_endpoint_loses_no_score_and_parts_stay_what_the_recipe_says(tmp_path: Path) -> None:
    async with slow_run(tmp_path, worth_seven) as (run, served):
        found = await ask_scores(run, "assess", "scores", label(pairs_per_call=120), answers(130))
        slowed(run, seconds=600.0)
        again = await ask_scores(run, "assess", "scores", label(pairs_per_call=120), answers(130))
    assert [each.item_id for each in found] == [f"p{n}" for n in range(130)] and again == found
    assert all(each.HasField("score") for each in found) and len(served.bodies) == 260


async def test_calls_are_as_small_as_the_pace_of_the_recipe_asks(tmp_path: Path) -> None:
    async with judged_run(tmp_path, good_wins) as (run, _):
        assert await items_per_call(run, label(), "compare") == 64, "no pace is known"
        slowed(run, 60.0, 600.0)  # 150 requests for each of two calls
        assert await items_per_call(run, label(), "compare") == 64, "75 would do"
        assert await items_per_call(run, label(chain_of_thought=True), "compare") == 37
        assert await items_per_call(run, label(choice="ensemble"), "compare") == 37
        assert await items_per_call(run, label(choice="ensemble", tags=["tone"]), "compare") == 64
        assert await items_per_call(run, label(pairs_per_call=500), "score") == 75
        slowed(run, 1.0, 400.0)
        with pytest.raises(RunError, match=r"1 let each of 2 calls make 1.67 requests.*\(400\).*takes 2:"):
            await items_per_call(run, label(), "compare")
        slowed(run, 1.0, 1.0, constitution="c.yaml", model="judge")
        assert await items_per_call(run, label(), "compare") == 64, "a model of its own has no pace"


async def read_another_constitution(run: Run, directory: Path) -> None:
    """As where somebody edits the file and has the judge read it."""
    write_constitution(directory, CONSTITUTION.replace("more honest", "longer"))
    (address,) = run.peers.where.of("judge")
    async with JudgeClient.direct(address) as judge:
        assert (await judge.reload_constitution(header=run.header("another"))).changed


async def test_another_constitution_in_mid_stage_is_refused_where_pairs_are_labelled(tmp_path: Path) -> None:
    async with judged_run(tmp_path, good_wins) as (run, served):
        await label_pairs(run, "collect", 1, pairs(4), label(pairs_per_call=2), seed=3)
        await read_another_constitution(run, tmp_path)
        with pytest.raises(CallError, match="expected_constitution_sha256: .* is in force, not"):
            await label_pairs(run, "collect", 1, pairs(8), label(pairs_per_call=2), seed=3)
        assert len(run.ledger.labels_of("collect", 1)) == 4 and len(served.bodies) == 8
        for number in (1, 2):
            await label_pairs(run, "dpo", number, pairs(2), label(), seed=3)
    assert len({row["verdict"]["constitution_sha256"] for row in run.ledger.all_labels()}) == 2


async def test_an_evaluation_scores_by_the_constitution_that_it_compared_by(tmp_path: Path) -> None:
    async with judged_run(tmp_path, good_wins) as (run, _):
        await label_pairs(run, "assess", 1, pairs(2), label(), seed=3)
        await read_another_constitution(run, tmp_path)
        with pytest.raises(CallError, match="expected_constitution_sha256: .* is in force, not"):
            await ask_scores(run, "assess", "scores", label(), answers(2))


async def test_each_judge_in_rotation_stays_the_version_that_it_was_in_its_first_turn(tmp_path: Path) -> None:
    def version(model: str, sha256: str) -> types_pb2.ModelVersion:
        return types_pb2.ModelVersion(model=model, number=1, sha256=sha256 * 64)

    async with judged_run(tmp_path, good_wins) as (run, _):
        slowed(run, constitution="c.yaml", model="one", rotation=["two"])
        for turn, name, digest in ((0, "one", "a"), (1, "two", "b")):
            expected = await judge_expected(run, "dpo", version(name, digest), turn)
            assert expected["expected_version"] == version(name, digest)
        changed = await judge_expected(run, "dpo", version("one", "c"), 2)
        assert changed["expected_version"] == version("one", "a"), "of its turn before, whatever is served"
        other = await judge_expected(run, "collect", version("one", "c"))
    assert other["expected_version"] == version("one", "c"), "another stage goes by what there is now"
