"""The constitutional path over real services: critique, revise, SFT, judged labels, PPO; and killed in it."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.ledger import Ledger
from orchestrator.verify import verify
from tests.loop.small import begun, ledger_of, start, start_small, succeed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
RESPONSES = 24


def phase(stage: str, name: str) -> Callable[[Ledger], bool]:
    return lambda ledger: ledger.phase(stage, 1, name) is not None


def labelled(stage: str, count: int) -> Callable[[Ledger], bool]:
    return lambda ledger: len(ledger.labels_of(stage, 1)) >= count


# Behind each of these the orchestrator is killed: the judge has answered a part of what it will be asked.
KILLS = [
    labelled("judge-check", 8),
    phase("revise", "critique-1-0"),
    phase("revise", "revision-2-1"),
    labelled("collect", 1),
    phase("ppo", "scored"),
]


def test_the_path_ends_the_same_whether_or_not_it_is_killed_and_keeps_its_trail(tmp_path: Path) -> None:
    succeed(start_small(tmp_path, "unbroken", by="constitution"), tmp_path, 900)
    process = start_small(tmp_path, "killed", by="constitution")
    for reached in KILLS:
        deadline = time.monotonic() + 900
        ledger = begun(process, tmp_path, "killed", deadline)
        while not reached(ledger):
            assert time.monotonic() < deadline and process.poll() is None, "it ended, or hangs"
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process = start("resume", "killed", runs=tmp_path)
    succeed(process, tmp_path, 900)

    ledgers = [ledger_of(tmp_path, name) for name in ("unbroken", "killed")]
    made = [(tmp_path / name / "data" / "revisions.jsonl").read_bytes() for name in ("unbroken", "killed")]
    assert made[0] == made[1]
    rows = [json.loads(line) for line in made[0].splitlines()]
    revised = ledgers[0].all_stages()[4]["result"]
    assert len(rows) == revised["demonstrations"] == RESPONSES - sum(revised["dropped"].values())
    for row in rows:
        assert row["messages"][-1] == {"role": "assistant", "content": row["trail"][-1]["revision"]}
        assert all(step["critique"] and step["judge"].startswith("judge@") for step in row["trail"])
    for model in ("revised", "policy"):
        digests = [(each.latest_version(model) or {})["sha256"] for each in ledgers]
        assert digests[0] == digests[1], model
    for ledger in ledgers:
        assert verify(ledger, tmp_path / ledger.run).findings == []
        assert {row["source"] for row in ledger.all_comparisons("comparisons")} == {"judge"}
    report = json.loads((tmp_path / "killed" / "report.json").read_text())
    assert report["judge_check"]["pairs"] == 40 and report["revise"]["responses"] == RESPONSES
    page = (tmp_path / "killed" / "report.html").read_text()
    assert "held-out pairs with known answers" in page and "Critique and revision" in page
