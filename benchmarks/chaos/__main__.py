"""A run under faults, held against the same run left alone; prints a JSON report.

    python -m benchmarks.chaos                  500 faults, some 15 minutes on two free cores
    python -m benchmarks.chaos --quick          41 faults
    python -m benchmarks.chaos --ledger URL     the same with the ledger in PostgreSQL
    python -m benchmarks.chaos --postgres       a private PostgreSQL, restarted three times in the middle

Exit code 0 only when: the run finished, no call lasted beyond its limit by more than a second, no prompt was
skipped and none trained twice (by `verify` and by a count of our own), no rollout was lost or drawn again,
and the final weights are byte for byte the unbroken run's.
"""

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.chaos.driver import Driver
from benchmarks.chaos.judge import as_json, calls_in, compare, faults_in, shortfalls, verified
from benchmarks.chaos.postgres import crashing_postgres
from benchmarks.chaos.schedule import full_schedule, quick_schedule
from benchmarks.chaos.world import write_world
from tests.faults.plan import FaultPlan
from tests.faults.small_disk import small_disk

FULL_ROUNDS, QUICK_ROUNDS = 60, 8
DISK_MEBIBYTES = 256


def main() -> int:
    """0 where all held."""
    options = parser().parse_args()
    with scratch(options.keep) as directory:
        report = chaos(directory, options)
    print(as_json(report))
    return 1 if report["shortfalls"] else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--quick", action="store_true", help="some 40 faults instead of 500")
    flags.add_argument("--rounds", type=int, help=f"of PPO (default: {FULL_ROUNDS}, quick: {QUICK_ROUNDS})")
    flags.add_argument("--seed", type=int, default=0, help="of the run and of the order of faults")
    flags.add_argument(
        "--deadline", type=float, default=5.0, help="seconds that a unary call may last at most"
    )
    flags.add_argument("--total-seconds", type=float, default=5400.0, help="for the run under faults")
    flags.add_argument(
        "--ledger", help="URL of the database that holds the ledger; default: files beside the runs"
    )
    flags.add_argument(
        "--postgres", action="store_true", help="a private PostgreSQL, which crashes three times"
    )
    flags.add_argument("--keep", type=Path, help="a new directory that stays, instead of one that is removed")
    return flags


@contextlib.contextmanager
def scratch(keep: Path | None) -> Iterator[Path]:
    """Where everything lies."""
    if keep is not None:
        keep.mkdir(parents=True)
        yield keep.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="trueline-chaos-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


def chaos(directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Both runs, and what a comparison of them says."""
    began = time.monotonic()
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else FULL_ROUNDS)
    recipe = write_world(directory / "world", rounds, options.seed)
    faults = (quick_schedule if options.quick else full_schedule)(rounds, options.seed)
    plan = FaultPlan(directory / "plan")
    with contextlib.ExitStack() as stack:
        mounted = stack.enter_context(small_disk(directory / "disk", DISK_MEBIBYTES))
        disk = str(directory / "disk") if mounted else ""
        plan.write(faults, deadline=options.deadline, disk=disk)
        ledger, crashes = options.ledger, None
        if options.postgres:
            ledger, crashes = stack.enter_context(crashing_postgres(plan, rounds))
        unbroken = Driver(directory / "unbroken", recipe)
        broken = Driver(
            directory / "disk" / "runs", recipe, plan, ledger, total_seconds=options.total_seconds
        )
        left_alone = unbroken.drive()
        if not left_alone.finished:
            raise SystemExit(f"the run without faults failed: {left_alone.errors}")
        driven = broken.drive()
        report: dict[str, Any] = {
            "seed": options.seed,
            "rounds": rounds,
            "small_disk": mounted,
            "ledger": "SQLite" if ledger is None else "PostgreSQL",
            "postgres_crashed_in_rounds": crashes.done if crashes else [],
            "unbroken_seconds": round(left_alone.seconds, 1),
            "run": asdict(driven),
            "same": compare(unbroken, broken),
            "verify": verified(broken),
            "calls": calls_in(plan),
            "faults": faults_in(plan),
        }
    report["seconds"] = round(time.monotonic() - began, 1)
    report["shortfalls"] = shortfalls(report, full=not options.quick)
    return report


if __name__ == "__main__":
    sys.exit(main())
