"""python -m k8s.monitoring.watch: the demo, and a local Prometheus that scrapes it and evaluates the alerts.

    make watch                                  the helpdesk demo
    make watch ARGS="run RECIPE --name NAME"    another run: what stands behind python -m orchestrator
    make watch ARGS="--address 127.0.0.1:9091 demo --seed 7"

When the run is over Prometheus stays, until Ctrl-C, so that what it drew can be looked at.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from k8s.monitoring.prometheus import NoPrometheus, prometheus
from orchestrator.launcher import REPOSITORY


def main(arguments: list[str] | None = None) -> int:
    """Runs both; the run's exit code."""
    flags = argparse.ArgumentParser(prog="python -m k8s.monitoring.watch", description=__doc__)
    flags.add_argument("--address", default="127.0.0.1:9090", help="Prometheus's own (default: %(default)s)")
    flags.add_argument("--interval", default="2s", help="between scrapes (default: %(default)s)")
    flags.add_argument("--once", action="store_true", help="end with the run")
    flags.add_argument("words", nargs=argparse.REMAINDER, help="what to run (default: demo)")
    options = flags.parse_args(arguments)
    words = options.words or ["demo"]
    runs = runs_of(words)
    try:
        with prometheus(
            runs / ".watch", str(runs / ".targets" / "*.json"), options.interval, options.address
        ) as server:
            print(f"Prometheus: {server.url}  (alerts: {server.url}/alerts)", file=sys.stderr)
            print("dashboards: k8s/compose.yaml shows them in Grafana, where Docker exists", file=sys.stderr)
            code = driven(words)
            if not options.once:
                print(f"the run is over; {server.url} stays until Ctrl-C", file=sys.stderr)
                stay()
            return code
    except NoPrometheus as error:
        print(f"watch: {error}", file=sys.stderr)
        return 1


def runs_of(words: list[str]) -> Path:
    """The directory of runs that the words name."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    runs: Path = parser.parse_known_args(words)[0].runs
    return runs.resolve()


def driven(words: list[str]) -> int:
    """Runs the orchestrator with its metrics on, and waits for its end."""
    command = [sys.executable, "-m", "orchestrator", *words, "--metrics-address", "127.0.0.1:0"]
    command += ["--metrics-linger", "5"]  # more than two scrapes
    process = subprocess.Popen(command, cwd=REPOSITORY if not Path("orchestrator").is_dir() else None)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # it has heard it too, and stops at a durable point


def stay() -> None:
    """Waits for Ctrl-C."""
    try:
        while True:
            time.sleep(60)
    except KeyboardInterrupt:
        print(file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
