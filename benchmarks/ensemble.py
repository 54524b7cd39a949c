"""Does an ensemble of reward models put off over-optimisation? One PPO against it and against its members.

    python -m benchmarks.ensemble [--seeds 0 1 2 3 4] [--members 4] [--singles 4] [--combine mean]
        [--few-prompts] [--runs DIR] [--set stages.ppo-ensemble.rounds=20]

One run per seed: the over-optimisation recipe, whose reward models are trained on the same comparisons (seeds
and folds differ), then its PPO stage once with the ensemble as its scorer and once with each of the first
members by itself. As shipped, the fault is one that every member learns alike: half of the customers want the
same. `--few-prompts` has another, which members can differ in: they start from the SFT model and see five
prompts. Prints a JSON line per seed and one over all of them: rounds in which gold peaked, its peak and its
last value, on the same held-out prompts. Ends with 0 whichever way it falls.
"""

import argparse
import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from benchmarks.recipes import RECIPES
from orchestrator.drive import open_run
from orchestrator.launcher import REPOSITORY
from orchestrator.ledger import Ledger
from orchestrator.overoptimisation import Measured, peak_and_fall
from orchestrator.statistics import mean_interval

RECIPE = RECIPES / "helpdesk-overoptimised.yaml"
ENSEMBLE = "ensemble"
# Twelve answers to each prompt, every pair compared; 330 comparisons are about five prompts.
FEW_PROMPTS: dict[str, dict[str, Any]] = {
    "collect": {
        "prompts": "{prepared}/prompts.jsonl",
        "prompt_limit": 100,
        "samples_per_prompt": 12,
        "held_out_share": 0.2,
    },
    "reward": {
        "init": "sft",
        "comparison_limit": 330,
        "epochs": 6,
        "minibatch_size": 1,
        "micro_batch_size": 32,
    },
}
VARIANCE_WEIGHT = 0.5


def main() -> int:
    """Runs every seed in turn."""
    options = flags().parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in options.seeds:
        row = {"seed": seed, **compared(finished(seed, options))}
        rows.append(row)
        print(json.dumps(row), flush=True)
    print(json.dumps(over_all(rows)), flush=True)
    return 0


def flags() -> argparse.ArgumentParser:
    """What one may ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--members", type=int, default=4, help="reward models in the ensemble")
    parser.add_argument("--singles", type=int, help="members that PPO is run against alone; default all")
    parser.add_argument("--combine", choices=["mean", "min", "mean_minus_variance"], default="mean")
    parser.add_argument("--few-prompts", action="store_true", help="comparisons of five prompts only")
    parser.add_argument("--runs", type=Path, default=Path("runs/ensemble"))
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="PATH=VALUE")
    return parser


def recipe(members: int, singles: int, combine: str, *, few_prompts: bool = False) -> dict[str, Any]:
    """The over-optimisation recipe with an ensemble, and a PPO stage for it and for each single member."""
    found: dict[str, Any] = yaml.safe_load(RECIPE.read_text())
    stages, reward = found["stages"], found["services"]["reward"]
    names = [f"reward-{number}" for number in range(1, members + 1)]
    ensemble: dict[str, Any] = {"combine": combine, "parts": names}
    if combine == "mean_minus_variance":
        ensemble["variance_weight"] = VARIANCE_WEIGHT
    reward["learned"], reward["combined"] = names, {ENSEMBLE: ensemble}
    for stage, changes in FEW_PROMPTS.items() if few_prompts else ():
        stages[stage].update(changes)
    stages["reward"]["members"] = members
    ppo = stages.pop("ppo")
    stages.pop("evaluate")
    scorers = {ENSEMBLE: names[0], **{name: name for name in names[:singles]}}  # each with its critic's start
    for scorer, critic in scorers.items():
        own = {"scorer": scorer, "critic": critic, "output": f"policy-{scorer}"}
        stages[f"ppo-{scorer}"] = {**copy.deepcopy(ppo), **own}
    return {**found, "name": "ensemble"}


def finished(seed: int, options: argparse.Namespace) -> Ledger:
    """The ledger of one seed's run, which is made or gone on with where it is not finished."""
    path, name = options.runs / "recipe.yaml", f"ensemble-{seed}"
    singles = options.members if options.singles is None else options.singles
    made = recipe(options.members, singles, options.combine, few_prompts=options.few_prompts)
    path.write_text(yaml.safe_dump(made, sort_keys=False))
    command = [sys.executable, "-m", "orchestrator", "run", str(path), "--name", name, "--seed", str(seed)]
    sets = [word for each in options.sets for word in ("--set", each)]
    subprocess.run(
        [*command, "--or-resume", "--runs", str(options.runs), *sets],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd=REPOSITORY,
    )
    return open_run(options.runs / name)


def compared(ledger: Ledger) -> dict[str, Any]:
    """Peak and end of every PPO stage, and by how many rounds the ensemble's peak is the later one."""
    stages = [row["stage"] for row in ledger.all_stages() if row["kind"] == "ppo"]
    found = {stage.removeprefix("ppo-"): of_stage(ledger, stage) for stage in stages}
    ensemble = found.pop(ENSEMBLE)
    return {"ensemble": ensemble, "singles": found, "later_by": round(later_by(ensemble, found), 2)}


def of_stage(ledger: Ledger, stage: str) -> dict[str, Any]:
    """Where gold peaked over all held-out prompts, what it fell to, and whether that is clear of noise."""
    measured = ledger.all_phases(stage, "measured")
    peak = max(measured, key=lambda number: (measured[number]["gold"], -number))
    last = measured[max(measured)]
    fell = peak_and_fall({n: Measured.of_phase(each) for n, each in measured.items()})
    return {
        "peak_round": peak,
        "gold_peak": round(measured[peak]["gold"], 3),
        "gold_last": round(last["gold"], 3),
        "proxy_at_peak": round(measured[peak]["proxy"], 3),
        "proxy_last": round(last["proxy"], 3),
        "overoptimised": fell is not None and fell.is_overoptimised,
    }


def later_by(ensemble: dict[str, Any], singles: dict[str, dict[str, Any]]) -> float:
    """Rounds between the singles' mean peak and the ensemble's."""
    mean = sum(each["peak_round"] for each in singles.values()) / len(singles)
    return float(ensemble["peak_round"] - mean)


def over_all(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Over the seeds: how often and by how much the ensemble's peak is later, and its gold higher."""
    singles = [[each for each in row["singles"].values()] for row in rows]
    gold = {
        name: [row["ensemble"][name] - sum(each[name] for each in alone) / len(alone)
               for row, alone in zip(rows, singles, strict=True)]
        for name in ("gold_peak", "gold_last")
    }  # fmt: skip
    return {
        "seeds": len(rows),
        "ensemble_later": sum(row["later_by"] > 0 for row in rows),
        "later_by": mean_interval([row["later_by"] for row in rows]).as_dict(),
        "gold_peak_above_singles": mean_interval(gold["gold_peak"]).as_dict(),
        "gold_last_above_singles": mean_interval(gold["gold_last"]).as_dict(),
        "ensembles_overoptimised": sum(row["ensemble"]["overoptimised"] for row in rows),
        "singles_overoptimised": sum(each["overoptimised"] for alone in singles for each in alone),
        "singles": sum(map(len, singles)),
    }


if __name__ == "__main__":
    sys.exit(main())
