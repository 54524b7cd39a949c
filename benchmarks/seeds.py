"""The demo over seeds 0 to 4 and the over-optimisation recipe over seeds 0 to 2, as JSON lines.

    python -m benchmarks.seeds [--runs DIR] [--only helpdesk-ppo] [--seeds 0 1 2]

Ends with 1 when a seed misses what the README promises: gap_closed of at least 0.8 at a sequence KL of at
most 10 nats; and in the over-optimisation recipe gold falling from its peak, clear of noise, while the proxy
rises.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from orchestrator.launcher import REPOSITORY
from orchestrator.report import load_report

SEEDS = {"helpdesk-ppo": [0, 1, 2, 3, 4], "helpdesk-overoptimised": [0, 1, 2]}
GAP_CLOSED, SEQUENCE_KL = 0.8, 10.0


def main() -> int:
    """Runs every seed in turn."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--runs", type=Path, default=Path("runs/seeds"))
    flags.add_argument("--only", choices=sorted(SEEDS))
    flags.add_argument("--seeds", type=int, nargs="+")
    options = flags.parse_args()
    missed = 0
    for recipe in [options.only] if options.only else list(SEEDS):
        judge = aligned if recipe == "helpdesk-ppo" else overoptimised
        for seed in options.seeds or SEEDS[recipe]:
            row = judge(report_of(recipe, seed, options.runs))
            missed += not row["holds"]
            print(json.dumps({"recipe": recipe, "seed": seed, **row}), flush=True)
    return 1 if missed else 0


def report_of(recipe: str, seed: int, runs: Path) -> dict[str, Any]:
    """The report of one seed's run, made now unless it is there."""
    name = f"{recipe}-{seed}"
    if not (runs / name / "report.json").exists():
        path = REPOSITORY / "recipes" / f"{recipe}.yaml"
        command = [
            sys.executable,
            "-m",
            "orchestrator",
            "run",
            str(path),
            "--name",
            name,
            "--seed",
            str(seed),
        ]
        subprocess.run([*command, "--runs", str(runs)], check=True, stdout=subprocess.DEVNULL, cwd=REPOSITORY)
    return load_report(runs / name)


def aligned(report: dict[str, Any]) -> dict[str, Any]:
    """Did the policy get better, at what KL?"""
    evaluation = report["evaluation"]
    before, after = (evaluation["models"][evaluation[side]]["gold"] for side in ("before", "after"))
    kl = evaluation["sequence_kl"]["k1"]["mean"]
    return {
        "gold_before": round(before["mean"], 3),
        "gold_after": round(after["mean"], 3),
        "gap_closed": round(evaluation["gap_closed"], 4),
        "sequence_kl": round(kl, 3),
        "reward_accuracy": round(report["reward_model"]["heldout_accuracy"]["value"], 4),
        "gold_agreement": round(report["reward_model"]["gold_agreement"]["value"], 4),
        "seconds": round(report["seconds_total"], 1),
        "holds": evaluation["gap_closed"] >= GAP_CLOSED and kl <= SEQUENCE_KL,
    }


def overoptimised(report: dict[str, Any]) -> dict[str, Any]:
    """Did gold fall from its peak, clear of zero at 95%, while the proxy rose on?

    orchestrator/overoptimisation.py measures the fall: the peak is chosen on one half of the held-out
    prompts, last minus peak taken on the other half, prompt by prompt. Two means with disjoint intervals,
    around a peak that the same prompts had chosen, hide falls which the pairs show, and count as a fall what
    is only the luck of the largest of many means.
    """
    found = report["overoptimisation"]
    figures = {name: found[name] for name in ("gold_at_peak", "gold_last", "proxy_at_peak", "proxy_last")}
    fall = {name: round(found["fall"][name], 3) for name in ("mean", "low", "high")}
    return {
        "peak_round": found["peak_round"],
        "last_round": found["last_round"],
        **{name: round(value, 3) for name, value in figures.items()},
        "fall": fall,
        "prompts": found["fall"]["n"],
        "seconds": round(report["seconds_total"], 1),
        "holds": found["overoptimised"],
    }


if __name__ == "__main__":
    sys.exit(main())
