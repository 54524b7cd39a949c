"""What metrics cost: seconds a round and a scrape, against the rounds of a finished run, as one JSON line.

    python -m benchmarks.metrics_cost RUNS/NAME [--interval 15]

Counts reading a committed round, serving scrapes while a round lasts, and the numbers that the trainer makes
for nobody but the reader: quantiles, correlation, distinct n-grams, repetition.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from prometheus_client import CollectorRegistry, generate_latest

from orchestrator.drive import open_run
from orchestrator.metrics import RunMetrics, StageHistory
from orchestrator.recipe import load_recipe
from services.trainer.ppo_metrics import correlation
from services.trainer.response_statistics import distinct, repetition

REPEATS = 50


def main() -> int:
    """Measures and prints."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("run", type=Path)
    flags.add_argument("--interval", type=float, default=15.0, help="seconds between scrapes")
    options = flags.parse_args()
    print(json.dumps(figures(options.run, options.interval)))
    return 0


def figures(directory: Path, interval: float) -> dict[str, float]:
    """Seconds and their share of the median round."""
    ledger = open_run(directory)
    stage = next(row["stage"] for row in ledger.all_stages() if row["kind"] in ("ppo", "dpo"))
    rows = [row for row in ledger.all_rounds(stage) if row.seconds]
    metrics = RunMetrics(ledger, load_recipe(directory / "recipe.yaml", run_dir=directory))
    registry = CollectorRegistry()
    registry.register(metrics)

    def read_round() -> None:
        ledger.phase(stage, rows[-1].number, "trained")
        row = ledger.round(stage, rows[-1].number)
        assert row is not None
        history = StageHistory()
        history.add(stage, row, {})
        history.samples(stage)

    seconds = median(row.seconds or 0.0 for row in rows)
    update, scrape = timed(read_round), timed(lambda: generate_latest(registry))
    statistics = timed(lambda: response_statistics(int(rows[-1].metrics.get("rollouts", 128)), 24))
    spent = update + statistics + scrape * max(1.0, seconds / interval)
    return {
        "round_seconds": round(seconds, 3),
        "update_seconds": round(update, 6),
        "scrape_seconds": round(scrape, 6),
        "step_numbers_seconds": round(statistics, 6),
        "share_of_round": round(spent / seconds, 5),
        "samples": sum(len(family.samples) for family in registry.collect()),
    }


def response_statistics(rollouts: int, tokens: int) -> None:
    """The trainer's numbers for the reader, of random responses."""
    ids = torch.randint(0, 200, (rollouts, tokens)).tolist()
    scores = torch.randn(rollouts)
    distinct(ids, 1), distinct(ids, 2), repetition(ids)
    correlation(scores, torch.full((rollouts,), float(tokens)))
    for _ in range(2):
        scores.quantile(scores.new_tensor([0.05, 0.5, 0.95]))


def timed(work: Callable[[], object]) -> float:
    """Median seconds of a call."""
    spent = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        spent.append(time.perf_counter() - began)
    return median(spent)


if __name__ == "__main__":
    sys.exit(main())
