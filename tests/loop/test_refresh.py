"""Refreshes of the reward model amid rounds: killed in every part of one, the run ends as an unbroken one."""

import copy
import json
from pathlib import Path

import pytest

from orchestrator.ledger import Ledger
from orchestrator.verify import recount, verify
from tests.loop.small import ledger_of, start, start_small, succeed
from tests.loop.test_resume import kill_at

REFRESH = {
    "every": 2,
    "reward": "reward",
    "prompts": 16,
    "label": {"kind": "simulated", "scorer": "gold"},
}
FIRST, SECOND = "ppo-refresh-000002", "ppo-refresh-000004"
LAST = 12  # step of the second: 3 epochs of what it knows by then
KILLS = [
    (FIRST, 1, "chunk-0"),
    (f"{FIRST}-reward", 1, "trained"),
    (f"{SECOND}", 1, "labelled"),
    (f"{SECOND}-reward", 2, "trained"),
    (f"{SECOND}-reward", LAST, "published"),
]


@pytest.mark.slow  # two whole runs
@pytest.mark.timeout(600)
def test_a_run_killed_amid_refreshes_ends_with_the_weights_of_an_unbroken_one(tmp_path: Path) -> None:
    override = f"stages.ppo.refresh={json.dumps(REFRESH)}"
    succeed(start_small(tmp_path, "unbroken", override), tmp_path)
    unbroken = ledger_of(tmp_path, "unbroken")
    assert last_step(unbroken, f"{SECOND}-reward") == LAST, "the last of the kills lies behind the last step"

    process = start_small(tmp_path, "killed", override)
    for stage, number, phase in KILLS:
        kill_at(process, tmp_path, "killed", stage, number, phase)
        process = start("resume", "killed", runs=tmp_path)
    succeed(process, tmp_path)

    killed = ledger_of(tmp_path, "killed")
    for model in ("policy", "reward"):
        ours, theirs = (
            [(row["number"], row["sha256"]) for row in ledger.all_versions() if row["model"] == model]
            for ledger in (killed, unbroken)
        )
        assert ours == theirs
    assert verify(killed, tmp_path / "killed").findings == []
    each_refresh_learns_from_what_came_before(killed)
    rounds_are_scored_by_the_newest(killed)
    a_recount_finds_what_is_planted(killed, tmp_path / "killed")


def last_step(ledger: Ledger, stage: str) -> int:
    return max(ledger.all_phases(stage, "trained"))


def each_refresh_learns_from_what_came_before(ledger: Ledger) -> None:
    results = {row["stage"]: row["result"] for row in ledger.all_stages()}
    trained = [results[name]["comparisons"] for name in ("reward", f"{FIRST}-reward", f"{SECOND}-reward")]
    fresh = [
        sum(len(row["preferences"]) for row in ledger.all_comparisons(name) if not row["held_out"])
        for name in (FIRST, SECOND)
    ]
    assert trained == [trained[0], trained[0] + fresh[0], trained[0] + sum(fresh)] and min(fresh) > 0
    policies = [ledger.all_comparisons(name)[0]["policy_version"]["number"] for name in (FIRST, SECOND)]
    assert policies == [2, 4], "the answers are the newest policy's own"
    sides: dict[str, set[bool]] = {}
    for name in ("comparisons", FIRST, SECOND):
        for row in ledger.all_comparisons(name):
            sides.setdefault(row["prompt_id"], set()).add(row["held_out"])
    assert all(len(found) == 1 for found in sides.values()), "a prompt is held out everywhere or nowhere"


def rounds_are_scored_by_the_newest(ledger: Ledger) -> None:
    from orchestrator.payloads import Payload, read_payload
    from trueline.v1 import trainer_pb2

    numbers = [row["number"] for row in ledger.all_versions() if row["model"] == "reward"]
    scored = ledger.all_phases("ppo", "scored")
    scorers = [
        {rollout.scorer for rollout in read_payload(Payload(**scored[n]), trainer_pb2.PpoBatch).rollouts}
        for n in range(1, 7)
    ]
    assert scorers == [{f"reward@{numbers[place]}"} for place in (0, 0, 1, 1, 2, 2)]


def a_recount_finds_what_is_planted(ledger: Ledger, directory: Path) -> None:
    rows = ledger.all_rows()
    unfinished = copy.deepcopy(rows)
    for row in unfinished["stages"]:
        row["status"] = "running" if row["stage"] == FIRST else row["status"]
    assert {each.kind for each in recount(unfinished, directory).findings} == {"refresh_missing"}

    early = copy.deepcopy(rows)
    for row in early["rounds"]:
        row["status"] = "open" if (row["stage"], row["round"]) == ("ppo", 6) else row["status"]
    early["rounds"] = [r for r in early["rounds"] if r["stage"] != "ppo" or r["round"] < 4]
    assert "refresh_early" in {each.kind for each in recount(early, directory).findings}

    changed = copy.deepcopy(rows)
    row = next(row for row in changed["comparisons"] if row["collection"] == FIRST and not row["held_out"])
    row["responses"] = [f"{text} no" for text in row["responses"]]
    assert {each.kind for each in recount(changed, directory).findings} == {"batch_changed"}
