"""kill -9 of each service in mid-round: the run goes on by itself, and its weights are an unbroken run's."""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.loop.small import begun, ledger_of, start_small, succeed

QUICK = (
    "stages.collect.prompt_limit=16",
    "stages.evaluate.prompt_limit=8",
    "stages.ppo.gold_every=2",
    "stages.ppo.rounds=6",
)
# Behind which row of the ledger which service is killed: while it samples, scores, gives log-probs, trains.
KILLS = [
    ("policy", 1, "chunk-0"),
    ("reward", 2, "chunk-0"),
    ("reference", 3, "chunk-0"),
    ("trainer", 4, "scored"),
    ("trainer", 5, "trained"),
]


def service(orchestrator: int, name: str) -> psutil.Process:
    """The process of a service as it is now."""
    for each in psutil.Process(orchestrator).children():
        if f"services.{name}" in each.cmdline():
            return each
    raise AssertionError(f"no {name} service runs")


@pytest.mark.slow  # two whole runs
@pytest.mark.timeout(1800)
def test_each_service_killed_in_mid_round_costs_no_round_and_no_bit(tmp_path: Path) -> None:
    succeed(start_small(tmp_path, "unbroken", *QUICK), tmp_path, 900)
    process = start_small(tmp_path, "killed", *QUICK)
    deadline = time.monotonic() + 900
    ledger = begun(process, tmp_path, "killed", deadline)
    for name, number, phase in KILLS:
        while ledger.phase("ppo", number, phase) is None:
            assert time.monotonic() < deadline, f"ppo {number} {phase} was not reached"
            assert process.poll() is None, (tmp_path / "output.log").read_text()[-4000:]
            time.sleep(0.002)
        os.kill(service(process.pid, name).pid, signal.SIGKILL)
    succeed(process, tmp_path, 900)

    output = (tmp_path / "output.log").read_text()
    unbroken, killed = ledger_of(tmp_path, "unbroken"), ledger_of(tmp_path, "killed")
    for name, _, _ in KILLS:
        assert f"note: {name}-0 ended with signal SIGKILL; started again at 127.0.0.1:" in output
    assert killed.info()["epoch"] == 1, "nobody had to resume it"
    for number in range(1, 7):
        ours, theirs = (each.phase("ppo", number, "trained") for each in (killed, unbroken))
        assert ours is not None and theirs is not None and ours["weights_sha256"] == theirs["weights_sha256"]
    places = [(row.cursor_start, row.cursor_end) for row in killed.all_rounds("ppo")]
    assert places == [(16 * i, 16 * i + 16) for i in range(6)], "no prompt skipped, none used twice"
    last, other = (each.latest_version("policy") for each in (killed, unbroken))
    assert last is not None and other is not None and last["sha256"] == other["sha256"]
