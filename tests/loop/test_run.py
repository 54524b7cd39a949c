"""Whole small runs over real services: the KL budget, stopping, and what a resume refuses."""

import json
import signal
import time
from pathlib import Path

import pytest

from orchestrator.verify import verify
from tests.loop.small import begun, ledger_of, start, start_small, succeed

pytestmark = pytest.mark.timeout(600)

# Everything in front of PPO as small as it goes; these tests are about rounds.
QUICK = ("stages.collect.prompt_limit=16", "stages.evaluate.prompt_limit=8", "stages.ppo.gold_every=100")


@pytest.mark.slow  # test_last_version.py has the budget at the last round, over services in this process
def test_a_hard_kl_budget_rolls_back_to_the_last_good_version_as_a_new_one(tmp_path: Path) -> None:
    budget = ("stages.ppo.algorithm.kl_budget_soft=0.0", "stages.ppo.algorithm.kl_budget_hard=0.002")
    fast = "stages.ppo.algorithm.policy_optimizer.learning_rate=0.01"
    succeed(start_small(tmp_path, "budget", *QUICK, *budget, fast), tmp_path)
    ledger = ledger_of(tmp_path, "budget")
    ((number, back),) = ledger.all_phases("ppo", "rolled_back").items()
    assert number >= 2, "the first round's policy is the reference: its KL is 0"
    assert back["kl"] >= 0.002 and back["good"] == number - 2 and back["number"] == number
    newest = ledger.latest_version("policy")
    assert newest is not None and newest["number"] == number
    manifest = json.loads((Path(newest["uri"]) / "manifest.json").read_text())
    good = ledger.version("policy", back["good"]) or ledger.latest_version("sft")
    assert good is not None and manifest["parent"]["sha256"] == good["sha256"]
    weights = [(Path(row["uri"]) / "model.safetensors").read_bytes() for row in (newest, good)]
    assert weights[0] == weights[1], "the new version holds the good one's weights"
    statuses = {row.number: row.status for row in ledger.all_rounds("ppo")}
    assert all(status == "rolled_back" for n, status in statuses.items() if n > back["good"])
    assert max(statuses) == number, "no round comes after the budget"
    assert "hard budget" in " ".join(ledger.info()["notes"])
    verdict = verify(ledger, tmp_path / "budget")
    assert verdict.findings == [] and verdict.figures["rounds_rolled_back"] >= 1


def test_dpo_ends_where_no_pair_is_left_and_filtered_samples_give_no_kl(tmp_path: Path) -> None:
    ties = json.dumps({"kind": "scorer", "scorer": "gold", "min_margin": 1000})
    filtered = [f"stages.{stage}.sampling.top_p=0.9" for stage in ("dpo", "evaluate")]
    no_budget = [f"stages.dpo.kl_budget_{each}=0" for each in ("soft", "hard")]
    quick = ("stages.dpo.gold_every=100", "stages.evaluate.prompt_limit=8", f"stages.dpo.label={ties}")
    succeed(start_small(tmp_path, "ties", *quick, *filtered, *no_budget, by="dpo"), tmp_path)
    ledger = ledger_of(tmp_path, "ties")
    assert [(row.number, row.status) for row in ledger.all_rounds("dpo")] == [(1, "rolled_back")]
    newest, sft = ledger.latest_version("policy"), ledger.latest_version("sft")
    assert newest is not None and sft is not None and newest["number"] == 1
    weights = [(Path(row["uri"]) / "model.safetensors").read_bytes() for row in (newest, sft)]
    assert weights[0] == weights[1], "what no round changed is published, for the stages behind"
    notes = " ".join(ledger.info()["notes"])
    assert "round 1 left no pair to learn from ({'tie': 32})" in notes and "no sequence KL" in notes
    assert "kl_reference_k1" not in (ledger.phase("dpo", 1, "labelled") or {})
    results = {row["stage"]: row["result"] for row in ledger.all_stages()}
    assert results["evaluate"]["sequence_kl"] == {}
    assert verify(ledger, tmp_path / "ties").findings == []
    succeed(start("resume", "ties", runs=tmp_path), tmp_path)  # nothing is left to do, and nothing is done


def test_a_run_told_to_stop_ends_at_a_durable_point_and_resumes(tmp_path: Path) -> None:
    process = start_small(tmp_path, "stopped", *QUICK)
    deadline = time.monotonic() + 180
    ledger = begun(process, tmp_path, "stopped", deadline)
    while ledger.phase("ppo", 2, "scored") is None:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    assert "go on with: python -m orchestrator resume stopped" in (tmp_path / "output.log").read_text()
    assert ledger_of(tmp_path, "stopped").info()["status"] == "stopped"

    recipe = tmp_path / "stopped" / "recipe.yaml"
    as_begun = recipe.read_text()
    recipe.write_text(as_begun.replace('"kl_coefficient": 0.05', '"kl_coefficient": 0.06'))
    assert recipe.read_text() != as_begun
    assert start("resume", "stopped", runs=tmp_path).wait(60) == 1
    assert "has changed since the run began" in (tmp_path / "output.log").read_text()
    recipe.write_text(as_begun)

    prompts = tmp_path / "stopped" / "prepared" / "prompts.jsonl"
    data = prompts.read_text()
    prompts.write_text(data.replace("p", "q", 1))
    assert start("resume", "stopped", runs=tmp_path).wait(60) == 1
    assert "data or models changed since the run began" in (tmp_path / "output.log").read_text()
    prompts.write_text(data)

    succeed(start("resume", "stopped", runs=tmp_path), tmp_path)
    assert ledger_of(tmp_path, "stopped").info()["status"] == "finished"
    report = json.loads((tmp_path / "stopped" / "report.json").read_text())
    assert {row["status"] for row in report["rounds"]} == {"committed"} and len(report["rounds"]) == 6
    assert (tmp_path / "stopped" / "export" / "config.json").exists()
    assert 'src="http' not in (tmp_path / "stopped" / "report.html").read_text()
