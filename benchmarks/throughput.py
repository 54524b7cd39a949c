"""PPO end to end, every hop included, on random models of a chosen size; prints one JSON line.

    python -m benchmarks.throughput --batch 128 --epochs 4 --threads 2 --rounds 12

The first rounds warm the processes up and are left out of the figures.
"""

import argparse
import asyncio
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from benchmarks.world import size_arguments
from orchestrator.drive import drive, new_run
from orchestrator.ledger import Ledger, Round
from orchestrator.progress import PlainProgress


def main() -> int:
    """Runs the benchmark in a directory of its own."""
    options = parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="trueline-bench-") as scratch:
        recipe = Path(scratch) / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(recipe_of(options), sort_keys=False))
        directory = Path(scratch) / "bench"
        ledger = new_run(recipe, directory, [], None)
        shown = sys.stderr if options.verbose else io.StringIO()
        asyncio.run(drive(directory, ledger, PlainProgress(shown)))
        print(json.dumps(figures(ledger, options)))
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = argparse.ArgumentParser(description=__doc__)
    size_arguments(flags)
    flags.add_argument("--batch", type=int, default=128, help="rollouts a round")
    flags.add_argument("--chunk", type=int, help="rollouts a call to the policy; default: half a batch")
    flags.add_argument("--epochs", type=int, default=4, help="passes over a round's rollouts")
    flags.add_argument("--minibatches", type=int, default=1, help="optimizer updates a pass")
    flags.add_argument("--micro-batch", type=int, default=64, help="sequences a forward pass")
    flags.add_argument("--threads", type=int, default=2, help="of the trainer; the others have one each")
    flags.add_argument("--replicas", type=int, default=1, help="policy services")
    flags.add_argument("--rounds", type=int, default=12, help="measured rounds")
    flags.add_argument("--warmup", type=int, default=3, help="rounds before them")
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--verbose", action="store_true", help="tell the rounds on stderr")
    return flags


def recipe_of(options: argparse.Namespace) -> dict[str, Any]:
    """One PPO stage on the benchmark's world."""
    sizes = ("hidden", "intermediate", "layers", "heads", "vocabulary", "prompts")
    lengths = ("prompt_tokens", "response_tokens")
    flags = [
        part
        for name in (*sizes, *lengths)
        for part in (f"--{name.replace('_', '-')}", str(getattr(options, name)))
    ]
    command = ["python", "-m", "benchmarks.world", "--output", "{prepared}", "--seed", "{seed}", *flags]
    optimizer = {"learning_rate": 1e-5, "schedule": "linear"}
    return {
        "name": "bench",
        "seed": options.seed,
        "prepare": {"command": command},
        "models": {"start": "{prepared}/model", "reward": "{prepared}/reward"},
        "services": {
            "policy": {"threads": 1, "replicas": options.replicas},
            "reward": {"threads": 1, "learned": ["reward"]},
            "trainer": {"threads": options.threads},
        },
        "stages": {
            "ppo": {
                "kind": "ppo",
                "policy": "start",
                "reference": "start",
                "critic": "reward",
                "scorer": "reward",
                "prompts": "{prepared}/prompts.jsonl",
                "rounds": options.rounds + options.warmup,
                "prompts_per_round": options.batch,
                "prompts_per_chunk": options.chunk or max(1, options.batch // 2),
                "sampling": {"temperature": 1.0, "max_new_tokens": options.response_tokens},
                "checkpoint_every": 10,
                "output": "policy",
                "algorithm": {
                    "epochs": options.epochs,
                    "minibatches": options.minibatches,
                    "micro_batch_size": options.micro_batch,
                    "policy_optimizer": optimizer,
                    "critic_optimizer": optimizer,
                },
            }
        },
    }


def figures(ledger: Ledger, options: argparse.Namespace) -> dict[str, Any]:
    """Rates and shares over the measured rounds."""
    rounds = ledger.all_rounds("ppo")[options.warmup :]
    seconds = sum(row.seconds or 0.0 for row in rounds)
    return {
        "rollouts_per_second": round(total(rounds, "rollouts") / seconds, 2),
        "generated_tokens_per_second": round(total(rounds, "generated_tokens") / seconds, 1),
        "overhead_fraction": round(total(rounds, "overhead_seconds") / seconds, 4),
        "round_seconds": round(seconds / len(rounds), 4),
        "phase_seconds": by_phase(rounds, "phase_seconds"),
        "phase_overhead_seconds": by_phase(rounds, "phase_overhead"),
        "peak_memory_mib": {
            name: round(size / 2**20) for name, size in ledger.info()["peak_memory_bytes"].items()
        },
        "rounds": len(rounds),
        "batch": options.batch,
        "epochs": options.epochs,
        "threads": options.threads,
        "response_tokens_mean": round(total(rounds, "generated_tokens") / total(rounds, "rollouts"), 2),
    }


def total(rounds: list[Round], name: str) -> float:
    """The sum of a metric over rounds."""
    return float(sum(row.metrics[name] for row in rounds))


def by_phase(rounds: list[Round], name: str) -> dict[str, float]:
    """Mean seconds a round by phase."""
    phases = sorted({phase for row in rounds for phase in row.metrics[name]})
    return {
        phase: round(sum(row.metrics[name].get(phase, 0.0) for row in rounds) / len(rounds), 4)
        for phase in phases
    }


if __name__ == "__main__":
    sys.exit(main())
