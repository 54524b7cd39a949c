"""Critique and revision over a real policy and a real judge service; what the judge says is scripted."""

import asyncio
import contextlib
import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.recipe_judge import ReviseStage
from orchestrator.recipe_stages import SftStage
from orchestrator.run import Run, RunError
from orchestrator.sources import supervised_rows
from orchestrator.stages.revise import run_revise
from orchestrator.verify_files import check_payloads
from orchestrator.verify_findings import Rows
from tests.judge.hosting import CONSTITUTION
from tests.judge.scripted_endpoint import Endpoint, Reply, Script, says
from tests.model_services import policy_service, publish_tiny
from tests.orchestrator.test_labelling import judged_run
from trueline import CallError

PROMPTS = 6


@asynccontextmanager
async def revising_run(
    tmp_path: Path, script: Script, constitution: str = CONSTITUTION
) -> AsyncIterator[tuple[Run, Endpoint]]:
    """A run with a tiny real policy, a judge before a scripted endpoint, and a file of prompts."""
    rows = [{"prompt_id": f"p{n}", "text": f"w{n + 1} w{n + 2}"} for n in range(PROMPTS)]
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    published = publish_tiny(tmp_path / "tiny", model="sft")
    async with policy_service(model=published.path) as (policy, _):
        judged = judged_run(tmp_path / "run", script, constitution=constitution, policy=policy.addresses)
        async with judged as (run, served):
            version = published.version
            run.ledger.add_version("sft", version.number, version.sha256, str(published.path), "sft", 1)
            yield run, served


def settings(tmp_path: Path, **changes: Any) -> ReviseStage:
    given: dict[str, Any] = {
        "kind": "revise", "policy": "sft", "prompts": str(tmp_path / "prompts.jsonl"), "rounds": 2,
        "prompts_per_chunk": 3, "sampling": {"max_new_tokens": 6}, "writing": {"max_new_tokens": 20},
        "output": "revisions",
    }  # fmt: skip
    return ReviseStage(**{**given, **changes})


def critic(told: str, before: int) -> Reply:
    """A critique counts the revisions so far; a revision adds one."""
    times = told.count("revised")
    return says("revised " * (times + 1) if "A critique of it:" in told else f"critique {times}")


def demonstrations(run: Run) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in (run.directory / "data" / "revisions.jsonl").read_text().splitlines()
    ]


async def test_every_response_is_revised_round_by_round_and_its_trail_is_kept(tmp_path: Path) -> None:
    async with revising_run(tmp_path, critic) as (run, served):
        result = await run_revise(run, "revise", settings(tmp_path))
        rows = demonstrations(run)
        assert len(served.bodies) == 4 * PROMPTS, "a critique and a revision, twice"
        assert list(check_payloads(Rows(run.ledger.all_rows()))) == []
    assert [row["prompt_id"] for row in rows] == [f"p{n}" for n in range(PROMPTS)]
    for n, row in enumerate(rows):
        assert row["text"] == f"w{n + 1} w{n + 2}" + "revised revised", "the last revision is what is learned"
        first, second = row["trail"]
        assert (first["critique"], first["revision"]) == ("critique 0", "revised")
        assert (second["critique"], second["revision"]) == ("critique 1", "revised revised")
        assert {each["principle"] for each in row["trail"]} <= {"honest", "kind"}
        assert first["judge"] == "oracle" and len(first["constitution_sha256"]) == 64
        assert row["response"] and row["policy"] == "sft@1" and row["sample"] == 0
    told = [body["messages"][-1]["content"] for body in served.bodies]
    for row in rows:
        asked = [text for text in told if row["response"] in text and "A critique of it:" in text]
        assert any("critique 0" in text for text in asked)
    assert result["demonstrations"] == result["changed"] == PROMPTS and result["dropped"] == {}
    assert sum(result["principles"].values()) == 2 * PROMPTS


async def test_a_stage_that_was_killed_asks_nothing_again_that_was_answered(tmp_path: Path) -> None:
    silent = True

    def critic_that_hangs(told: str, before: int) -> Reply:
        hangs = silent and "revised" in told
        return Reply(silence=True) if hangs else critic(told, before)

    async with revising_run(tmp_path, critic_that_hangs) as (run, served):
        killed = asyncio.ensure_future(run_revise(run, "revise", settings(tmp_path)))
        while len([phase for phase in run.ledger.all_rows()["phases"] if "revision-1" in phase["phase"]]) < 2:
            await asyncio.sleep(0.02)
            assert not killed.done()
        killed.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await killed
        silent = False
        await run_revise(run, "revise", settings(tmp_path))
        told = Counter(body["messages"][-1]["content"] for body in served.bodies)
    first_round = {text: times for text, times in told.items() if "revised" not in text}
    assert len(first_round) == 2 * PROMPTS and set(first_round.values()) == {1}
    assert [row["trail"][-1]["revision"] for row in demonstrations(run)] == ["revised revised"] * PROMPTS


async def test_what_is_abstained_truncated_or_empty_is_dropped_and_counted(tmp_path: Path) -> None:
    def failing(told: str, before: int) -> Reply:
        number = int(re.findall(r"w(\d+)", told)[0]) - 1  # of the prompt
        revising = "A critique of it:" in told
        if number == 0 and revising:
            return says("cut in the mid", finish_reason="length")
        if number == 1:
            return says("", finish_reason="content_filter") if revising else says("critique")
        if number == 2 and not revising:
            return says("   ")
        return says("revised" if revising else "critique")

    async with revising_run(tmp_path, failing) as (run, served):
        result = await run_revise(run, "revise", settings(tmp_path))
        rows, notes = demonstrations(run), run.ledger.info()["notes"]
    assert [row["prompt_id"] for row in rows] == ["p3", "p4", "p5"]
    expected = {"critique_empty_answer": 1, "revision_filtered": 1, "revision_truncated": 1}
    assert result["dropped"] == expected and str(expected) in notes[-1]
    assert "cut in the mid" not in (run.directory / "data" / "revisions.jsonl").read_text()
    assert len(served.bodies) == 4 * 3 + 5, "what is dropped is not asked about again"


async def test_a_stage_of_which_nothing_is_left_says_so(tmp_path: Path) -> None:
    async with revising_run(tmp_path, lambda told, before: says("")) as (run, _):
        with pytest.raises(RunError, match="no revision is left.*critique_empty_answer': 6"):
            await run_revise(run, "revise", settings(tmp_path))


@pytest.mark.parametrize("what", ["critique", "revision"])
async def test_what_an_outage_left_unanswered_is_asked_again_once_it_is_mended(
    tmp_path: Path, what: str
) -> None:
    """The second chunk meets it; the first one's answers are not asked for again."""
    down = True

    def critic_that_is_loading(told: str, before: int) -> Reply:
        number = int(re.findall(r"w(\d+)", told)[0]) - 1  # of the prompt
        if down and number == 4 and ("A critique of it:" in told) == (what == "revision"):
            return Reply(status=404, body={"error": {"message": "the model is loading"}})
        return critic(told, before)

    async with revising_run(tmp_path, critic_that_is_loading) as (run, served):
        stage = settings(tmp_path, rounds=1)
        missing = r"1 of 6 responses have no answer .* max_missing_share \(0.1\).*loading.*Mend the judge"
        with pytest.raises(RunError, match=missing):
            await run_revise(run, "revise", stage)
        down = False
        result = await run_revise(run, "revise", stage)
        told = Counter(body["messages"][-1]["content"] for body in served.bodies)
        assert list(check_payloads(Rows(run.ledger.all_rows()))) == []
    assert result["demonstrations"] == PROMPTS and result["dropped"] == {}
    assert all(times == 1 for text, times in told.items() if int(re.findall(r"w(\d+)", text)[0]) <= 3)


async def test_a_few_without_an_answer_are_dropped_and_their_replies_kept(tmp_path: Path) -> None:
    def critic_that_refuses_one(told: str, before: int) -> Reply:
        return Reply(status=404) if re.findall(r"w(\d+)", told)[0] == "5" else critic(told, before)

    async with revising_run(tmp_path, critic_that_refuses_one) as (run, _):
        result = await run_revise(run, "revise", settings(tmp_path, max_missing_share=0.2))
        phases = {row["phase"] for row in run.ledger.all_rows()["phases"]}
        assert list(check_payloads(Rows(run.ledger.all_rows()))) == []
    assert result["dropped"] == {"critique_endpoint_refused": 1} and result["demonstrations"] == PROMPTS - 1
    assert {f"{what}-{n}-{i}" for what in ("critique", "revision") for n in (1, 2) for i in (0, 1)} <= phases


async def test_a_principle_that_cannot_revise_is_never_drawn_for_a_critique(tmp_path: Path) -> None:
    text = CONSTITUTION.replace("    revision: Write it anew, kindly.\n", "")
    async with revising_run(tmp_path, critic, constitution=text) as (run, served):
        result = await run_revise(run, "revise", settings(tmp_path))
        assert result["principles"] == {"honest": 2 * PROMPTS}
        asked = len(served.bodies)
        for given in ({"principles": ["kind"]}, {"tags": ["tone"]}):
            with pytest.raises(RunError, match="no principle .* it takes has a critique and revision"):
                await run_revise(run, "again", settings(tmp_path, **given))
        with pytest.raises(RunError, match="constitution 'shop' has no 'keen'"):
            await run_revise(run, "again", settings(tmp_path, principles=["honest", "keen"]))
        assert len(served.bodies) == asked, "before anything costs"


async def test_without_critiques_the_principle_alone_is_followed(tmp_path: Path) -> None:
    async with revising_run(tmp_path, lambda told, before: says("better")) as (run, served):
        await run_revise(run, "revise", settings(tmp_path, critique=False, rounds=1))
        rows = demonstrations(run)
    assert len(served.bodies) == PROMPTS
    assert all(
        row["trail"][0].keys() == {"principle", "revision", "judge", "constitution_sha256"} for row in rows
    )


async def test_another_constitution_in_mid_stage_is_refused(tmp_path: Path) -> None:
    async with revising_run(tmp_path, critic) as (run, _):
        run.ledger.finish_phase("revise", 0, "judge", {"sha256": "0" * 64, "constitution": "another"})
        with pytest.raises(CallError, match="in force, not 0000"):
            await run_revise(run, "revise", settings(tmp_path))


async def test_an_sft_stage_trains_on_what_was_revised_behind_its_own_data(tmp_path: Path) -> None:
    async with revising_run(tmp_path, critic) as (run, _):
        await run_revise(run, "revise", settings(tmp_path))
        data = tmp_path / "own.jsonl"
        data.write_text('{"text": "own"}\n')
        stage = dict(kind="sft", init="sft", output="revised", demonstrations="revisions", loss_on="all")
        stage |= dict(minibatch_size=2, micro_batch_size=2, max_tokens=32, optimizer={"learning_rate": 0.1})
        alone = supervised_rows(run.directory, SftStage(**stage))
        both = supervised_rows(run.directory, SftStage(**stage, data=str(data)))
    assert [row["prompt_id"] for row in alone] == [f"p{n}" for n in range(PROMPTS)]
    assert both[0] == {"text": "own"} and both[1:] == list(alone)


async def test_the_judge_is_asked_about_two_chunks_at_once_and_no_more(tmp_path: Path) -> None:
    """More would wait at the judge, and their deadlines with them."""
    async with revising_run(tmp_path, critic) as (run, _):
        ask, under_way, most = run.ask, 0, 0

        async def counted(service: str, call: Any) -> Any:
            nonlocal under_way, most
            under_way += service == "judge"
            most = max(most, under_way)
            try:
                return await ask(service, call)
            finally:
                under_way -= service == "judge"

        run.ask = counted  # type: ignore[method-assign]
        await run_revise(run, "revise", settings(tmp_path, prompts_per_chunk=1))
    assert most == 2
