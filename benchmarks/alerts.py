"""Finished runs replayed into a real Prometheus: in which rounds each alert's expression holds.

    python -m benchmarks.alerts RUNS/NAME [RUNS/NAME ...] [--alert TruelineRewardHacking]

Each committed round becomes a scrape a minute after the last one, with the samples that the orchestrator
exported when it committed it, and the rules of k8s/monitoring are asked of them. One JSON line for each run:
gold's peak, and the rounds in which each alert's expression holds.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from k8s.monitoring.prometheus import RULES, Prometheus, prometheus
from orchestrator.drive import open_run
from orchestrator.ledger import Ledger
from orchestrator.metrics import Samples, StageHistory
from trueline.metrics import METRICS

MINUTE = 60.0
ROUNDS_KINDS = ("ppo", "dpo")


def main() -> int:
    """Replays every run."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("runs", type=Path, nargs="+", help="directories of runs")
    flags.add_argument("--alert", help="this one only")
    options = flags.parse_args()
    for directory in options.runs:
        print(json.dumps(replay(directory, options.alert)), flush=True)
    return 0


def replay(directory: Path, alert: str | None) -> dict[str, Any]:
    """What the rules say of one run."""
    ledger = open_run(directory)
    stage = next(row["stage"] for row in ledger.all_stages() if row["kind"] in ROUNDS_KINDS)
    history, moments = StageHistory(), list[Samples]()
    for row in ledger.all_rounds(stage):
        if row.status == "committed":
            trained = ledger.phase(stage, row.number, "trained") or {"excluded": {}}
            history.add(stage, row, trained["excluded"])
            moments.append(history.samples(stage))
    start = (time.time() // MINUTE - len(moments) - 10) * MINUTE
    with tempfile.TemporaryDirectory(prefix="trueline-alerts-") as scratch:
        data = Path(scratch)
        write_blocks(data, open_metrics(ledger, moments, start))
        with prometheus(data, str(data / "none.json")) as server:
            holds = {
                rule["alert"]: rounds_of(server, rule["expr"], stage, start, len(moments))
                for rule in alerts()
                if alert in (None, rule["alert"])
            }
    peak = max(history.measured, key=lambda each: each.gold, default=None)
    return {
        "run": directory.name,
        "rounds": len(moments),
        "gold_peak_round": peak.round if peak else None,
        "gold_last_below_peak": round(peak.gold - history.measured[-1].gold, 4) if peak else None,
        "holds": {name: rounds for name, rounds in holds.items() if rounds},
    }


def alerts() -> list[dict[str, Any]]:
    """Every alert."""
    groups = yaml.safe_load((RULES / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def open_metrics(ledger: Ledger, moments: list[Samples], start: float) -> Iterator[str]:
    """The samples with their times, family by family as the format wants."""
    families: dict[str, list[str]] = {}
    for place, samples in enumerate(moments, start=1):
        for name, values, value in samples:
            labels = dict(zip(METRICS[name].labels, (ledger.run, *values), strict=True))
            labels |= {"job": "orchestrator", "instance": "orchestrator-0"}
            told = ",".join(f'{key}="{word}"' for key, word in labels.items())
            families.setdefault(name, []).append(f"{name}{{{told}}} {value!r} {start + MINUTE * place:.3f}\n")
    for name, lines in families.items():
        kind = METRICS[name].type
        yield f"# TYPE {name.removesuffix('_total')} {kind}\n"
        yield from lines
    yield "# EOF\n"


def write_blocks(directory: Path, lines: Iterator[str]) -> None:
    """Makes Prometheus's own files of them."""
    text = directory / "samples.txt"
    text.write_text("".join(lines), encoding="utf-8")
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(text), str(directory / "data")]
    subprocess.run(command, check=True, capture_output=True)


def rounds_of(server: Prometheus, expression: str, stage: str, start: float, rounds: int) -> list[int]:
    """The rounds after which an expression holds for the stage."""
    end = start + MINUTE * rounds
    found = server.query_range(expression, start + MINUTE, end, MINUTE)
    own = [row for row in found if row["metric"].get("stage", stage) == stage]
    return sorted({round((float(at) - start) / MINUTE) for row in own for at, _ in row["values"]})


if __name__ == "__main__":
    sys.exit(main())
