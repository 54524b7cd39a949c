"""A small run of the helpdesk recipe, as a person would start it: a process of its own."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from orchestrator.drive import open_run
from orchestrator.launcher import REPOSITORY
from orchestrator.ledger import Ledger

PREPARE = [
    *("python", "-m", "worlds.helpdesk", "prepare", "--output", "{prepared}", "--seed", "{seed}"),
    *("--logs", "256", "--demonstrations", "256", "--prompts", "40", "--heldout", "64"),
]
SMALL = (
    f"prepare.command={json.dumps(PREPARE)}",
    "stages.pretrain.epochs=1",
    "stages.pretrain.rows_per_step=64",
    "stages.pretrain.minibatch_size=32",
    "stages.pretrain.checkpoint_every=2",
    "stages.sft.epochs=1",
    "stages.sft.rows_per_step=64",
    "stages.sft.minibatch_size=32",
    "stages.evaluate.prompt_limit=32",
)
SMALL_PPO = (
    "stages.collect.prompt_limit=32",
    "stages.reward.rows_per_step=16",
    "stages.reward.minibatch_size=8",
    "stages.reward.normalisation.samples=16",
    "stages.ppo.rounds=6",
    "stages.ppo.prompts_per_round=16",
    "stages.ppo.prompts_per_chunk=8",
    "stages.ppo.gold_every=2",
    "stages.ppo.gold_limit=8",
    "stages.ppo.checkpoint_every=2",
)
SMALL_DPO = (
    f"prepare.command={json.dumps([*PREPARE, '--judge', '40', '--context', '256'])}",
    "stages.judge.rows_per_step=100",
    "stages.dpo.label.min_option_mass=0.0",
    "stages.dpo.label.disagreement_tolerance=1.0",  # of a judge that has learned next to nothing
    "stages.dpo.label.tie_band=0.0",
    "stages.dpo.algorithm.max_missing_share=0.9",  # responses of a model that small may be empty
    "stages.dpo.rounds=6",
    "stages.dpo.prompts_per_round=16",
    "stages.dpo.prompts_per_chunk=8",
    "stages.dpo.gold_every=2",
    "stages.dpo.gold_limit=8",
    "stages.dpo.checkpoint_every=2",
    "stages.dpo.algorithm.minibatch_size=16",
)
PREPARE_JUDGE = [*PREPARE, "--judge", "200", "--context", "256"]
SMALL_CONSTITUTION = (
    *SMALL_PPO,
    f"prepare.command={json.dumps(PREPARE_JUDGE)}",
    "stages.judge.rows_per_step=100",
    "stages.judge-check.limit=40",
    "stages.revise.prompt_limit=24",
    "stages.revise.prompts_per_chunk=8",
    "stages.revised.rows_per_step=16",
    "stages.revised.minibatch_size=8",
    "stages.collect.prompt_limit=16",
    "stages.collect.max_missing_share=1.0",  # its responses may be empty
    "stages.collect.max_missing_share=1.0",  # responses of a model that small may be empty
    "stages.collect.label.disagreement_tolerance=1.0",
    "stages.collect.label.tie_band=0.0",
    "stages.ppo.rounds=2",
)
OF = {"constitution": SMALL_CONSTITUTION, "ppo": SMALL_PPO, "dpo": SMALL_DPO}


def start(*words: str, runs: Path) -> "subprocess.Popen[str]":
    """python -m orchestrator WORDS, its output in a file beside the runs."""
    runs.mkdir(parents=True, exist_ok=True)
    with (runs / "output.log").open("a") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "orchestrator", *words, "--runs", str(runs)],
            cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=output, stderr=output, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip


def start_small(runs: Path, name: str, *overrides: str, by: str = "ppo") -> "subprocess.Popen[str]":
    """The small helpdesk run, `by` one of OF."""
    sets = [word for override in (*SMALL, *OF[by], *overrides) for word in ("--set", override)]
    recipe = str(REPOSITORY / "recipes" / f"helpdesk-{by}.yaml")
    return start("run", recipe, "--name", name, *sets, runs=runs)


def succeed(process: "subprocess.Popen[str]", runs: Path, seconds: float = 240.0) -> None:
    """Waits for exit 0; shows the output otherwise."""
    code = process.wait(seconds)
    assert code == 0, f"exit code {code}\n{(runs / 'output.log').read_text()[-4000:]}"


def ledger_of(runs: Path, name: str) -> Ledger:
    """The ledger of a run that has begun."""
    return open_run(runs / name)


def begun(process: "subprocess.Popen[str]", runs: Path, name: str, deadline: float) -> Ledger:
    """The ledger of a run that is about to begin, once it is there; `deadline` on the monotonic clock."""
    while not (runs / name / "prepared").exists():  # made when the ledger is there
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    return ledger_of(runs, name)
