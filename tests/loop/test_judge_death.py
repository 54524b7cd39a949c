"""kill -9 of the orchestrator inside judge labelling, then resume: no verdict is lost or asked for again."""

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orchestrator.recipe import load_recipe
from tests.judge.hosting import CONSTITUTION
from tests.judge.scripted_endpoint import endpoint, logs, says, slots
from tests.loop.small import begun, start, succeed

PROMPTS, SAMPLES, PAIRS_PER_CALL = 12, 3, 4


def recipe(directory: Path, url: str) -> Path:
    """Answers of the helpdesk's untrained model, compared by a judge behind an endpoint."""
    (directory / "constitution.yaml").write_text(CONSTITUTION)
    prepare = ["python", "-m", "worlds.helpdesk", "prepare", "--output", "{prepared}", "--seed", "{seed}"]
    sizes = ["--logs", "64", "--demonstrations", "64", "--prompts", "40", "--heldout", "8"]
    collect = {
        "kind": "collect",
        "policy": "start",
        "prompts": "{prepared}/prompts.jsonl",
        "prompt_limit": PROMPTS,
        "samples_per_prompt": SAMPLES,
        "sampling": {"max_new_tokens": 8},
        "label": {"kind": "judge", "principles": ["honest"], "pairs_per_call": PAIRS_PER_CALL},
        "max_missing_share": 1.0,
        "output": "comparisons",
    }
    judge = {
        "constitution": str(directory / "constitution.yaml"),
        "endpoint": url,
        "endpoint_model": "oracle",
    }
    path = directory / "recipe.yaml"
    path.write_text(
        json.dumps(
            {
                "name": "judged",
                "prepare": {"command": prepare + sizes},
                "models": {"start": "{prepared}/model"},
                "services": {"judge": judge},
                "stages": {"collect": collect},
            }
        )
    )
    return path


def prefers_the_longer(told: str, before: int) -> Any:
    time.sleep(0.05)  # so that labelling takes a while
    first, second = slots(told)
    return says(
        "A", logs(A=0.9, B=0.1) if (len(first), first) > (len(second), second) else logs(A=0.1, B=0.9)
    )


@pytest.mark.slow  # three orchestrators in turn, each with its services
@pytest.mark.timeout(600)
def test_an_orchestrator_killed_while_the_judge_is_asked_loses_and_repeats_nothing(tmp_path: Path) -> None:
    with endpoint(prefers_the_longer) as served:
        made = recipe(tmp_path, served.url)
        process = start("run", str(made), "--name", "judged", runs=tmp_path)
        ledger = begun(process, tmp_path, "judged", time.monotonic() + 180)
        for least in (1, 3 * PAIRS_PER_CALL):  # behind the first call, and in the middle
            wait_for(lambda least=least: len(ledger.all_labels("judge")) >= least, process, tmp_path)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kept = ledger.all_labels("judge")
            assert len(kept) < PROMPTS * SAMPLES, "it was killed in the middle"
            process = start("resume", "judged", runs=tmp_path)
            wait_for(lambda kept=kept: len(ledger.all_labels("judge")) > len(kept), process, tmp_path)
            assert ledger.all_labels("judge")[: len(kept)] == kept, "what was kept is kept as it was"
        succeed(process, tmp_path)
    rows = ledger.all_labels("judge")
    pairs = [(row["item"], row["first"], row["second"]) for row in rows]
    assert len(set(pairs)) == len(pairs) and all(row["answered_at"] for row in rows)
    # A call whose answer was not durable yet may be asked again; no durable one is.
    asked = Counter(slots(body["messages"][-1]["content"]) for body in served.bodies)
    under_way = 2 * 2 * PAIRS_PER_CALL  # two calls at a time, and two kills
    assert sum(count - 1 for count in asked.values() if count > 1) <= 2 * under_way + repeats(pairs)


def repeats(pairs: list[tuple[str, str, str]]) -> int:
    """Questions that are asked twice by right: of prompts whose answers are the same texts."""
    same = Counter((first, second) for _, first, second in pairs)
    return sum(2 * (count - 1) for count in same.values())


def wait_for(reached: Any, process: Any, runs: Path) -> None:
    deadline = time.monotonic() + 240
    while not reached():
        assert time.monotonic() < deadline and process.poll() is None, (runs / "output.log").read_text()[
            -2000:
        ]
        time.sleep(0.01)


def test_the_recipe_of_this_test_is_sound(tmp_path: Path) -> None:
    loaded = load_recipe(recipe(tmp_path, "http://127.0.0.1:1/v1"))
    assert loaded.needed_services == {"policy", "judge"}
