"""kill -9 of one of two ranks of a trainer in mid-round: the gang is started again, no round is lost."""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from orchestrator.verify import verify
from tests.loop.small import begun, ledger_of, start_small, succeed

TWO_RANKS = (
    "services.trainer.ranks=2",
    "services.trainer.threads=1",
    "stages.collect.prompt_limit=16",
    "stages.evaluate.prompt_limit=8",
    "stages.ppo.gold_every=2",
    "stages.ppo.rounds=4",
)
# Behind which row of the ledger which rank is killed: while both train, and behind a checkpoint.
KILLS = [(1, 1, "scored"), (0, 2, "scored"), (1, 3, "trained")]


def ranks(orchestrator: int) -> list[psutil.Process]:
    """The trainer's processes by rank, once both run."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for each in psutil.Process(orchestrator).children():
            if "services.trainer" in each.cmdline():
                others = [child for child in each.children() if "services.trainer" in child.cmdline()]
                if len(others) == 1:
                    return [each, *others]
        time.sleep(0.05)
    raise AssertionError("no trainer with two ranks runs")


@pytest.mark.slow  # two runs of two ranks each
@pytest.mark.timeout(1800)
def test_a_rank_killed_in_mid_round_costs_no_round_and_no_bit(tmp_path: Path) -> None:
    succeed(start_small(tmp_path, "unbroken", *TWO_RANKS), tmp_path, 900)
    process = start_small(tmp_path, "killed", *TWO_RANKS)
    deadline = time.monotonic() + 900
    ledger = begun(process, tmp_path, "killed", deadline)
    for rank, number, phase in KILLS:
        while ledger.phase("ppo", number, phase) is None:
            assert time.monotonic() < deadline, f"ppo {number} {phase} was not reached"
            assert process.poll() is None, (tmp_path / "output.log").read_text()[-4000:]
            time.sleep(0.002)
        gang = ranks(process.pid)
        os.kill(gang[rank].pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(gang, timeout=30)
        assert not alive, "a rank outlived its gang"
    succeed(process, tmp_path, 900)

    unbroken, killed = ledger_of(tmp_path, "unbroken"), ledger_of(tmp_path, "killed")
    assert killed.info()["epoch"] == 1, "nobody had to resume it"
    assert [row.status for row in killed.all_rounds("ppo")] == ["committed"] * 4
    for number in range(1, 5):
        ours, theirs = (each.phase("ppo", number, "trained") for each in (killed, unbroken))
        assert ours is not None and theirs is not None and ours["weights_sha256"] == theirs["weights_sha256"]
    last, other = (each.latest_version("policy") for each in (killed, unbroken))
    assert last is not None and other is not None and last["sha256"] == other["sha256"]
    for each in (unbroken, killed):
        assert verify(each, tmp_path / each.run).findings == []
