"""Labels of pairs through a real judge service: abstentions are no numbers, and nobody is asked twice."""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.judge_audit import audit
from orchestrator.labelling import Outcome, Pair, ask_again, by_turn, label_pairs
from orchestrator.mending import Mending, Stopped
from orchestrator.peers import Peers
from orchestrator.progress import PlainProgress
from orchestrator.recipe_labels import JudgeLabel, PersonLabel
from orchestrator.recipe_settings import Supervision
from orchestrator.run import Run, RunError
from orchestrator.stages.collect import refuse_failures
from tests.judge.hosting import CONSTITUTION, judge_service, write_constitution
from tests.judge.scripted_endpoint import Endpoint, Reply, Script, endpoint, logs, says, slots
from tests.orchestrator.written_run import RunWriter

NOBODY: dict[str, list[str]] = {name: [] for name in ("policy", "reference", "reward", "trainer")}


@asynccontextmanager
async def judged_run(
    tmp_path: Path,
    script: Script,
    judge: dict[str, Any] | None = None,
    constitution: str = CONSTITUTION,
    **addresses: list[str],
) -> AsyncIterator[tuple[Run, Endpoint]]:
    """A run whose judge is a real service before a scripted endpoint, with settings of its own.

    `addresses` are of other services.
    """
    writer = RunWriter(tmp_path)
    with endpoint(script) as served:
        async with judge_service(write_constitution(tmp_path, constitution), served, **judge or {}) as (
            _,
            server,
        ):
            async with Peers({**NOBODY, **addresses, "judge": [server.address]}) as peers:
                progress = PlainProgress(sys.stderr)
                mending = Mending(Supervision(), asyncio.Event(), print)
                yield (
                    Run(writer.recipe, writer.directory, writer.ledger, peers, progress, mending),
                    served,
                )


def pairs(count: int) -> list[Pair]:
    return [
        Pair(f"p{n}/0-1", {"prompt_id": f"p{n}", "text": f"question {n}"}, f"good {n}", f"bad {n}", (n,))
        for n in range(count)
    ]


def label(**settings: Any) -> JudgeLabel:
    return JudgeLabel(kind="judge", **settings)


def first_slot(told: str, before: int) -> Any:
    return says("A", logs(A=0.9, B=0.1))


def good_wins(told: str, before: int) -> Any:
    good_first = slots(told)[0].startswith("good")
    return says("A", logs(A=0.8, B=0.2) if good_first else logs(A=0.2, B=0.8))


async def test_a_judge_that_always_prefers_the_first_slot_yields_no_preference(tmp_path: Path) -> None:
    async with judged_run(tmp_path, first_slot) as (run, _):
        outcomes = await label_pairs(run, "collect", 1, pairs(200), label(), seed=3)
    assert [each.probability for each in outcomes] == [None] * 200
    assert {each.reason for each in outcomes} == {"orders_disagree"}
    assert not any(each.failed for each in outcomes), "it answered: that it flips is no failure of the call"


@pytest.mark.parametrize("places", [[logs(A=0.8, B=0.2)], []])
async def test_options_may_have_marks_around_them(tmp_path: Path, places: list[dict[str, float]]) -> None:
    """Read from log-probs, and from the text where the endpoint gives none."""
    wording = (
        "wording:\n  options: ['(A)', '(B)']\n"
        '  compare: "{conversation} {principle}\\n\\n(A) {first}\\n\\n(B) {second}\\n\\nAnswer (A) or (B)."\n'
    )

    def obeys(told: str, before: int) -> Any:
        named = "(A)" if slots(told)[0].startswith("good") else "(B)"
        other = {"A": "B", "B": "A"}
        turned = [each if named == "(A)" else {other[k]: v for k, v in each.items()} for each in places]
        return says(named, *turned)

    async with judged_run(tmp_path, obeys, constitution=CONSTITUTION + wording) as (run, _):
        outcomes = await label_pairs(run, "collect", 1, pairs(3), label(), seed=3)
    assert [each.probability for each in outcomes] == pytest.approx([0.8 if places else 1.0] * 3)


async def test_a_fifth_unparsable_is_a_fifth_of_abstentions_and_no_number(tmp_path: Path) -> None:
    def garbles(told: str, before: int) -> Any:
        number = int(slots(told)[0].split()[-1])
        return says("well, who knows") if number % 5 == 0 else good_wins(told, before)

    async with judged_run(tmp_path, garbles) as (run, _):
        outcomes = await label_pairs(run, "collect", 1, pairs(200), label(), seed=3)
    abstained = [each for each in outcomes if each.probability is None]
    assert 0.17 <= len(abstained) / 200 <= 0.23
    assert {each.reason for each in abstained} == {"unparsable"} and all(each.failed for each in abstained)
    assert all(each.probability == pytest.approx(0.8) for each in outcomes if each not in abstained)
    with pytest.raises(RunError, match="40 of 200 pairs have no label.*unparsable"):
        refuse_failures("collect", outcomes, 0.1)


async def test_what_was_answered_is_not_asked_again(tmp_path: Path) -> None:
    async with judged_run(tmp_path, good_wins) as (run, served):
        settings = label(pairs_per_call=4)
        first = await label_pairs(run, "collect", 1, pairs(8), settings, seed=3)
        assert len(served.bodies) == 16, "two orders each"
        again = await label_pairs(run, "collect", 1, pairs(12), settings, seed=3)
        assert len(served.bodies) == 24 and again[:8] == first
        rows = run.ledger.labels_of("collect", 1)
    assert Counter(row["item"] for row in rows) == Counter({f"p{n}/0-1": 1 for n in range(12)})
    assert rows[0]["verdict"]["verdict"]["readings"][0]["raw"] == "A"
    assert rows[0]["verdict"]["constitution_sha256"] and rows[0]["question"]["principles"]["seed"]


async def test_a_share_goes_to_people_and_the_run_waits_for_them(tmp_path: Path) -> None:
    async with judged_run(tmp_path, good_wins) as (run, served):
        settings = label(person_share=0.5)
        with pytest.raises(Stopped, match="wait for a person"):
            await label_pairs(run, "collect", 1, pairs(20), settings, seed=3)
        waiting = run.ledger.waiting_labels()
        assert 4 <= len(waiting) <= 16 and len(served.bodies) == 2 * (20 - len(waiting))
        for row in waiting[:-1]:
            run.ledger.answer_label("collect", 1, row["item"], "ann", probability=0.0)
        run.ledger.answer_label("collect", 1, waiting[-1]["item"], "ann", reason="skipped")
        outcomes = await label_pairs(run, "collect", 1, pairs(20), settings, seed=3)
    by_person = [each for each in outcomes if each.source == "person"]
    assert [each.probability for each in by_person] == [0.0] * (len(waiting) - 1) + [None]
    assert by_person[-1] == Outcome(None, "skipped", "", "person", "ann") and not by_person[-1].failed


async def test_people_alone_need_no_judge(tmp_path: Path) -> None:
    async with judged_run(tmp_path, good_wins) as (run, served):
        with pytest.raises(Stopped, match="3 pairs of collect 1"):
            await label_pairs(run, "collect", 1, pairs(3), PersonLabel(kind="person"), seed=3)
    assert served.bodies == []


async def test_labels_that_failed_are_asked_for_again_once_who_labels_is_mended(tmp_path: Path) -> None:
    down = [True]

    def breaks(told: str, before: int) -> Any:
        if down[0] and slots(told)[0].endswith(("3", "7")):
            return Reply(status=404, body={"error": {"message": "no such model"}})
        return good_wins(told, before)

    async with judged_run(tmp_path, breaks) as (run, served):
        for tries in (1, 2):
            outcomes = await label_pairs(run, "collect", 1, pairs(10), label(), seed=3)
            assert [each.reason for each in outcomes if each.failed] == ["endpoint_refused"] * 2
            ask_again(run, "collect", 1, pairs(10), outcomes)
            aside = [row["item"] for row in run.ledger.labels_of("collect", 1) if "aside" in row["item"]]
            assert len(aside) == 2 * tries and f"aside-{tries}:p3/0-1" in aside
        down[0], before = False, len(served.bodies)
        outcomes = await label_pairs(run, "collect", 1, pairs(10), label(), seed=3)
    assert all(each.probability == pytest.approx(0.8) for each in outcomes)
    assert len(served.bodies) == before + 4, "the two that failed, in both orders, and no other"
    assert audit(run.ledger.all_labels())["abstentions"] == {"endpoint_refused": 4}, "the audit forgets none"


def test_each_judge_in_rotation_has_its_share_whatever_was_asked_before() -> None:
    everything = pairs(300)
    shares = dict(by_turn(everything, 3, None, seed=7))
    assert sorted(shares) == [0, 1, 2] and all(70 <= len(share) <= 130 for share in shares.values())
    left = dict(by_turn(everything[150:], 3, None, seed=7))
    for place, share in left.items():
        assert share == [pair for pair in shares[place] if pair in everything[150:]]
    assert by_turn(everything, 3, 4, seed=7) == [(4, everything)], "its turn: all pairs, whoever that is"
    assert by_turn(everything, 1, None, seed=7) == [(0, everything)]
