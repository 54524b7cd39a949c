"""Trueline beside TRL on the same PPO work, and beside the floor under both.

    python -m benchmarks.peer --batch 64 --epochs 4

The same models, prompts, lengths, batch and epochs, in turn, `--repeats` times, with each number of threads.
A side may use as many cores as it has threads and no more, all its processes together. TRL's rounds are timed
within its training loop; Trueline's hold every hop: services, ledger, publishing and loading. Of the repeats
the fastest counts, for what else runs on a machine can only slow them. The last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.peer.environment import TRL, prepare
from benchmarks.peer.workload import Workload

LONGEST_RUN = 1800.0  # seconds; a side that takes longer hangs
BUSY = 0.7  # load average above which others are at work
SIDES = ("trl", "trueline", "floor")
NAMES = {"trl": f"TRL {TRL}", "trueline": "Trueline", "floor": "floor"}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--thread-counts", type=int, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument("--repeats", type=int, default=2, metavar="N", help="of which the fastest counts")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES, help="what to run")
    parser.add_argument(
        "--environment", type=Path, default=Path(".venv-peer"), help="where TRL is, or will be"
    )
    workload, options = Workload.from_flags(parser, without=("threads",))
    python = prepare(options.environment) if "trl" in options.sides else None
    load = os.getloadavg()[0]  # later it would hold the load that this benchmark makes itself
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="trueline-peer-") as scratch:
        world = Path(scratch) / "world"
        _run([sys.executable, "-m", "benchmarks.world", "--output", str(world), *workload.world_flags()])
        for threads in options.thread_counts:
            work = replace(workload, threads=threads)
            with _cores(threads):
                found[str(threads)] = _in_turn(_commands(work, world, python), options.sides, options.repeats)
    _print_table(found)
    if load > BUSY:
        print(f"others were at work when this began (load {load:.1f}): a free machine is faster")
    print(json.dumps({"workload": vars(workload), "load_before": load, "threads": found}))
    return 0


def _commands(workload: Workload, world: Path, python: Path | None) -> dict[str, list[str]]:
    """How each side is told to do the work."""
    on_world = ["--world", str(world), *workload.flags()]
    return {
        "trl": [str(python), "-m", "benchmarks.peer.trl_ppo", *on_world],
        "trueline": [sys.executable, "-m", "benchmarks.throughput", *workload.throughput_flags()],
        "floor": [sys.executable, "-m", "benchmarks.peer.floor", *on_world],
    }


def _in_turn(commands: dict[str, list[str]], sides: Sequence[str], repeats: int) -> dict[str, Any]:
    """Run the sides one after another, again and again; the fastest run of each, and every rate."""
    best: dict[str, Any] = {}
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(repeats):
        for side in sides:
            figures = json.loads(_run(commands[side]).strip().splitlines()[-1])
            rate = figures["rollouts_per_second"]
            print(f"{NAMES[side]}: {rate:.1f} rollouts/s", file=sys.stderr)
            if rate > max(rates[side], default=0.0):
                best[side] = figures
            rates[side].append(rate)
    for side in sides:
        best[side]["every_rate"] = rates[side]
    if {"trl", "trueline"} <= set(sides):
        best["ratio"] = best["trueline"]["rollouts_per_second"] / best["trl"]["rollouts_per_second"]
    return best


@contextlib.contextmanager
def _cores(count: int) -> Iterator[None]:
    """Hold the processes started inside to so many cores, where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    if count > len(allowed):
        raise SystemExit(f"--thread-counts: {count} threads, but only {len(allowed)} cores")
    os.sched_setaffinity(0, sorted(allowed)[-count:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _run(command: list[str]) -> str:
    """Standard output of a command that succeeded."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_RUN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stderr[-4000:]}")
    return done.stdout


def _print_table(found: dict[str, dict[str, Any]]) -> None:
    """Rates by side and number of threads, then where the time of a round goes."""
    for threads, figures in found.items():
        print(f"{threads} thread{'s' if threads != '1' else ''}")
        for side in (side for side in SIDES if side in figures):
            phases = figures[side]["phase_seconds"]
            seconds = "  ".join(f"{name} {value:.3f} s" for name, value in phases.items())
            print(f"  {NAMES[side]:12} {figures[side]['rollouts_per_second']:7.1f} rollouts/s   {seconds}")
        if "ratio" in figures:
            length = figures["trueline"]["response_tokens_mean"]
            print(f"  {'ratio':12} {figures['ratio']:7.2f}   Trueline's responses averaged {length} tokens")


if __name__ == "__main__":
    sys.exit(main())
