"""A PPO run and a DPO run scraped by a real Prometheus: what of dashboards, alerts and metrics has data.

    python -m benchmarks.panels [--runs DIR] [--full]

Small runs of the helpdesk recipes; with --full as the recipes stand. Prints one JSON line, and on stderr each
panel without data. Ends with 1 where a panel lacks data that no `needs` explains, an alert does not evaluate,
a metric of a service that ran is missing, or the ledger's series differs from what Prometheus drew.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.recipes import RECIPES, with_words
from k8s.monitoring.__main__ import BOARDS
from k8s.monitoring.board import with_values
from k8s.monitoring.prometheus import RULES, Prometheus, prometheus
from orchestrator.drive import open_run
from orchestrator.launcher import REPOSITORY
from orchestrator.metrics import METRIC_OF
from trueline.metrics import METRICS, STEP_NUMBERS

SCRAPE = "250ms"
STAGES = {"helpdesk-ppo": "ppo", "helpdesk-dpo": "dpo"}
# What the two runs lack: a judge, KTO, an ensemble, a score clip, a failed call, a row left out.
LACKING = re.compile(r"^trueline_(judge_|kto_|reward_(disagreement|clipped)|retries|(trainer_)?excluded)")


def main() -> int:
    """Runs both and asks Prometheus everything."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--runs", type=Path, help="where to keep them; a directory of their own without it")
    flags.add_argument("--full", action="store_true", help="the recipes as they stand")
    options = flags.parse_args()
    with tempfile.TemporaryDirectory(prefix="trueline-panels-") as scratch:
        runs = (options.runs or Path(scratch)).resolve()
        began = time.time()
        with prometheus(runs / ".watch", str(runs / ".targets" / "*.json"), SCRAPE) as server:
            for recipe in STAGES:
                run(recipe, runs, small=not options.full)
            time.sleep(1)  # for the last scrape to be there
            found = figures(server, runs, began)
    print(json.dumps(found))
    return (
        1 if any(found[fault] for fault in ("unexplained", "failing_alerts", "missing", "different")) else 0
    )


def run(recipe: str, runs: Path, small: bool) -> None:
    """One run, its metrics on."""
    words = [str(RECIPES / f"{recipe}.yaml"), "--name", recipe, "--runs", str(runs)]
    words += [word for each in (shrunk(recipe) if small else []) for word in ("--set", each)]
    command = [sys.executable, "-m", "orchestrator", "run", *words, "--metrics-address", "127.0.0.1:0"]
    command += ["--metrics-linger", "2"]  # eight scrapes
    subprocess.run(command, check=True, cwd=REPOSITORY, stdout=subprocess.DEVNULL)


def shrunk(recipe: str) -> list[str]:
    """Overrides that keep every stage and make all of them small."""
    sizes = {"judge": 64} if recipe == "helpdesk-dpo" else {}
    prepare = with_words(RECIPES / f"{recipe}.yaml", logs=256, demonstrations=256, **sizes)
    found = [f"prepare.command={json.dumps([*prepare, '--prompts=40', '--heldout=64'])}"]
    for stage in ("pretrain", "sft"):
        found += [f"stages.{stage}.rows_per_step=64", f"stages.{stage}.minibatch_size=32"]
    stage = STAGES[recipe]
    found += [f"stages.{stage}.rounds=8", f"stages.{stage}.prompts_per_round=16"]
    found += [f"stages.{stage}.gold_every=2", f"stages.{stage}.gold_limit=16"]
    found += [f"stages.{stage}.prompts_per_chunk=8", f"stages.{stage}.checkpoint_every=3"]
    found += ["stages.evaluate.prompt_limit=32"]
    if recipe == "helpdesk-dpo":  # a judge that has learned nothing abstains
        label = {"kind": "simulated", "scorer": "gold", "scale": 2.0}
        found += [f"stages.dpo.label={json.dumps(label)}", "stages.judge.rows_per_step=64"]
    if recipe == "helpdesk-ppo":
        found += ["stages.collect.prompt_limit=32", "stages.reward.rows_per_step=16"]
        found += ["stages.reward.minibatch_size=8", "stages.reward.normalisation.samples=16"]
    return found


def figures(server: Prometheus, runs: Path, began: float) -> dict[str, Any]:
    """What has data and what has none, counted."""
    ended = time.time()
    empty, unexplained, asked = [], [], 0
    for board in BOARDS:
        for panel in board.panels:
            for query in panel.queries:
                asked += 1
                if not drew(server, query.expression, began, ended):
                    empty.append(f"{board.uid}: {panel.title} (needs {panel.needs or 'nothing'})")
                    unexplained += [empty[-1]] if not panel.needs else []
    rules = server.rules()
    names = {
        row["metric"]["__name__"] for row in server.query_range('{__name__=~".+"}', began, ended, step(began))
    }
    series = {name: re.sub(r"_(bucket|count|sum|created)$", "", name) for name in names}
    missing = [name for name in METRICS if name not in series.values() and not LACKING.search(name)]
    compared, different = compare(server, runs, began, ended)
    for line in empty:
        print(f"no data: {line}", file=sys.stderr)
    return {
        "panels": sum(len(board.panels) for board in BOARDS),
        "queries": asked,
        "with_data": asked - len(empty),
        "explained": len(empty) - len(unexplained),
        "unexplained": unexplained,
        "alerts": len(rules),
        "failing_alerts": [rule["name"] for rule in rules if rule["health"] == "err"],
        "rules": sorted(path.name for path in RULES.glob("*.yaml")),
        "metrics": len(METRICS),
        "missing": missing,
        "ledger_numbers_compared": compared,
        "different": different,
    }


def step(began: float) -> float:
    """Seconds between points, so that Prometheus's limit of 11,000 a series is kept."""
    return max(0.25, (time.time() - began) / 10_000)


def drew(server: Prometheus, expression: str, began: float, ended: float) -> bool:
    """Whether a panel's query gave anything while the runs went on."""
    return bool(server.query_range(with_values(expression, "30s"), began, ended, max(1.0, step(began))))


def compare(server: Prometheus, runs: Path, began: float, ended: float) -> tuple[int, list[str]]:
    """Each number of each round as the ledger has it and as Prometheus drew it; those that differ."""
    compared, different = 0, []
    for name, stage in STAGES.items():
        rows = [row for row in open_run(runs / name).all_rounds(stage) if row.status == "committed"]
        for number, metric in METRIC_OF.items():
            wanted = [(row.number, row.metrics[number]) for row in rows if is_number(row.metrics.get(number))]
            if not wanted or number == "excluded":
                continue
            drawn = drawn_rounds(server, metric, number, name, stage, began, ended)
            for round_number, value in wanted:
                compared += 1
                if drawn.get(round_number) != float(value):
                    different.append(f"{name} {number} {round_number}: {value} {drawn.get(round_number)}")
    return compared, different


def is_number(value: object) -> bool:
    """True for what a gauge can show."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def drawn_rounds(
    server: Prometheus, metric: str, number: str, run: str, stage: str, began: float, ended: float
) -> dict[int, float]:
    """{round: value} as Prometheus has it: the value that stood beside that round's number."""
    labels = METRICS[metric].labels[2:]
    own = "".join(f', {k}="{v}"' for k, v in zip(labels, STEP_NUMBERS[number].labels, strict=True))
    place = f'run="{run}", stage="{stage}"'
    values = points(server, f"{metric}{{{place}{own}}}", began, ended)
    rounds = points(server, f"trueline_round{{{place}}}", began, ended)
    return {int(done): values[at] for at, done in rounds.items() if at in values}


def points(server: Prometheus, selector: str, began: float, ended: float) -> dict[float, float]:
    """{time of scrape: value} of the raw samples; those of one scrape share their time."""
    window = f"{int(ended - began) + 2}s"
    found = server.query(f"{selector}[{window}]", at=ended)
    return {float(at): float(value) for row in found for at, value in row["values"]}


if __name__ == "__main__":
    sys.exit(main())
