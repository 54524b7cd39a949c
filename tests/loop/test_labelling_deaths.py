"""kill -9 of the orchestrator while a judge labels, then resume: no verdict is lost, none asked for twice."""

import json
import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orchestrator.ledger import Ledger
from tests.judge.hosting import write_constitution
from tests.judge.scripted_endpoint import Endpoint, Reply, endpoint, logs, says, slots
from tests.loop.small import ledger_of, start, succeed
from tests.tiny_models import write_tiny_model

PROMPTS, PAIRS_PER_CALL, CALLS_AT_ONCE = 12, 4, 2


def recipe(directory: Path, served: Endpoint) -> Path:
    """Three answers to each of some prompts, compared by a judge behind an endpoint."""
    rows = [{"prompt_id": f"p{n}", "text": f"w{n} w{n + 1}"} for n in range(PROMPTS)]
    (directory / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    collect = dict(kind="collect", policy="start", output="pairs", samples_per_prompt=3)
    collect |= dict(prompts=str(directory / "prompts.jsonl"), sampling={"max_new_tokens": 8})
    collect |= dict(label={"kind": "judge", "pairs_per_call": PAIRS_PER_CALL})
    judge = dict(
        constitution=str(write_constitution(directory)), endpoint=served.url, endpoint_model="oracle"
    )
    made = dict(name="labelled", models={"start": str(write_tiny_model(directory / "start", seed=1))})
    path = directory / "recipe.yaml"
    path.write_text(json.dumps({**made, "services": {"judge": judge}, "stages": {"collect": collect}}))
    return path


def thoughtful(told: str, before: int) -> Reply:
    """Prefers the longer response, after a while: a kill falls into the middle of calls."""
    time.sleep(0.05)
    first, second = slots(told)
    return says("A", logs(A=0.8, B=0.2) if len(first) >= len(second) else logs(A=0.2, B=0.8))


def questions(served: Endpoint) -> Counter[tuple[str, ...]]:
    """How often each pair was asked about, by its two responses in the order they were shown."""
    told = [body["messages"][-1]["content"] for body in served.bodies]
    return Counter((each.partition("(A)")[0], *slots(each)) for each in told)


def kill_inside_labelling(process: "subprocess.Popen[str]", runs: Path) -> Ledger:
    """kill -9 of the orchestrator once two calls' verdicts are durable; others are under way."""
    deadline = time.monotonic() + 120
    while not (runs / "labelled" / "orchestrator.lock").exists():
        assert time.monotonic() < deadline and process.poll() is None, (runs / "output.log").read_text()
        time.sleep(0.02)
    ledger = ledger_of(runs, "labelled")
    while len(ledger.labels_of("collect", 1)) < 2 * PAIRS_PER_CALL:
        assert time.monotonic() < deadline and process.poll() is None, (runs / "output.log").read_text()
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return ledger


@pytest.mark.timeout(300)
def test_a_kill_inside_labelling_loses_no_verdict_and_asks_for_none_twice(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with endpoint(thoughtful) as served:
        process = start("run", str(recipe(tmp_path, served)), "--name", "labelled", runs=runs)
        ledger = kill_inside_labelling(process, runs)
        kept = ledger.labels_of("collect", 1)
        before = questions(served)
        succeed(start("resume", "labelled", runs=runs), runs)
        asked = questions(served)

    labels = ledger.labels_of("collect", 1)
    assert 2 * PAIRS_PER_CALL <= len(kept) < len(labels) <= 3 * PROMPTS, "it was killed in the middle"
    assert sum(before.values()) > 2 * len(kept), "a call was under way"
    assert labels[: len(kept)] == kept, "what was durable is as it was"
    assert len({row["item"] for row in labels}) == len(labels)
    assert all(of_pair(asked, row) == [1, 1] for row in kept), "no durable verdict was asked for again"
    # What was under way had no verdict yet; it alone is asked again.
    repeated = sum(asked.values()) - 2 * len(labels)
    assert 0 <= repeated <= 2 * PAIRS_PER_CALL * CALLS_AT_ONCE
    collected = ledger.all_comparisons("pairs")
    assert sum(len(row["preferences"]) for row in collected) == sum(
        1 for row in labels if row["probability"] is not None
    )


def of_pair(asked: Counter[tuple[str, ...]], row: dict[str, Any]) -> list[int]:
    """How often a pair was asked about as given, and swapped."""
    ours = {key: count for key, count in asked.items() if row["prompt"]["text"] in key[0]}
    sides = (row["first"], row["second"])
    return [count for key, count in sorted(ours.items()) if key[1:] in (sides, sides[::-1])]
