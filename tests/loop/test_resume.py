"""kill -9 of the orchestrator in each phase of a round, then resume: nothing lost, nothing different."""

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from orchestrator.ledger import Ledger
from orchestrator.verify import verify
from tests.loop.small import begun, ledger_of, start, start_small, succeed

# After which row of the ledger the orchestrator is killed: stage, round, phase. Sampling is under way behind
# the first chunk, scoring behind the last, training behind the score, and so on. The first kill lies behind a
# checkpoint of pretraining. Each kill starts every service anew, so CI has a few of them.
FEW = [("ppo", 1, "chunk-0"), ("ppo", 3, "scored"), ("ppo", 4, "trained")]
EVERY = {
    "ppo": [
        ("pretrain", 3, "trained"),
        ("ppo", 1, "chunk-0"),
        ("ppo", 2, "sampled"),
        ("ppo", 3, "scored"),
        ("ppo", 4, "trained"),
        ("ppo", 5, "published"),
        ("ppo", 6, "committed"),
    ],
    "dpo": [
        ("dpo", 1, "chunk-0"),
        ("dpo", 2, "sampled"),
        ("dpo", 3, "labelled"),
        ("dpo", 4, "paired"),
        ("dpo", 5, "trained"),
        ("dpo", 6, "published"),
    ],
}


def reached(ledger: Ledger, stage: str, number: int, phase: str) -> bool:
    if phase == "committed":
        row = ledger.round(stage, number)
        return row is not None and row.status == "committed"
    return ledger.phase(stage, number, phase) is not None


def kill_at(
    process: "subprocess.Popen[str]", runs: Path, name: str, stage: str, number: int, phase: str
) -> None:
    """Waits for the row, then kill -9 of the orchestrator alone."""
    deadline = time.monotonic() + 180
    ledger = begun(process, runs, name, deadline)
    while not reached(ledger, stage, number, phase):
        assert time.monotonic() < deadline, f"{stage} {number} {phase} was not reached"
        assert process.poll() is None, (runs / "output.log").read_text()[-4000:]
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def strays(children: list[psutil.Process], seconds: float = 5.0) -> list[psutil.Process]:
    """Those still there after a while."""
    _, alive = psutil.wait_procs(children, timeout=seconds)
    return alive


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("by", "kills"),
    [
        pytest.param("ppo", FEW, id="ppo-few"),
        *(pytest.param(by, kills, id=f"{by}-every", marks=pytest.mark.slow) for by, kills in EVERY.items()),
    ],
)
def test_a_run_killed_in_its_phases_ends_with_the_weights_of_an_unbroken_one(
    tmp_path: Path, by: str, kills: list[tuple[str, int, str]]
) -> None:
    succeed(start_small(tmp_path, "unbroken", by=by), tmp_path)
    process = start_small(tmp_path, "killed", by=by)
    for stage, number, phase in kills:
        parent = psutil.Process(process.pid)
        deadline = time.monotonic() + 60
        while len(parent.children(recursive=True)) < 4 and time.monotonic() < deadline:
            time.sleep(0.05)
        services = parent.children(recursive=True)
        kill_at(process, tmp_path, "killed", stage, number, phase)
        assert len(services) >= 4 and not strays(services), "a service outlived its orchestrator"
        process = start("resume", "killed", runs=tmp_path)
    succeed(process, tmp_path)

    unbroken, killed = ledger_of(tmp_path, "unbroken"), ledger_of(tmp_path, "killed")
    assert killed.info()["epoch"] == 1 + len(kills)
    for number in range(1, 7):
        ours, theirs = (each.phase(by, number, "trained") for each in (killed, unbroken))
        assert ours is not None and theirs is not None and ours["weights_sha256"] == theirs["weights_sha256"]
    places = [(row.cursor_start, row.cursor_end) for row in killed.all_rounds(by)]
    assert places == [(16 * i, 16 * i + 16) for i in range(6)], "no prompt skipped, none used twice"
    last, other = (each.latest_version("policy") for each in (killed, unbroken))
    assert last is not None and other is not None
    weights = [(Path(each["uri"]) / "model.safetensors").read_bytes() for each in (last, other)]
    assert weights[0] == weights[1]
    for ledger in (unbroken, killed):
        assert verify(ledger, tmp_path / ledger.run).findings == []
