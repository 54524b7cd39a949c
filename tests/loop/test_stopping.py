"""Ctrl-C in preparation, in mid-collection and twice in a step: nothing durable is lost or repeated."""

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.verify import verify
from tests.loop.small import begun, ledger_of, start, start_small, succeed

QUICK = (
    "stages.collect.prompt_limit=32",
    "stages.collect.prompts_per_chunk=4",
    "stages.evaluate.prompt_limit=8",
    "stages.ppo.gold_every=100",
    "stages.ppo.rounds=4",
)


def interrupted(
    process: "subprocess.Popen[str]", reached: Callable[[], bool], runs: Path, times: int = 1
) -> float:
    """Sends Ctrl-C as soon as a point is reached; returns the seconds until the process has ended."""
    deadline = time.monotonic() + 180
    while not reached():
        assert time.monotonic() < deadline and process.poll() is None, (runs / "output.log").read_text()[
            -999:
        ]
        time.sleep(0.005)
    told = time.monotonic()
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)  # two that come at once are one signal
    assert process.wait(60) == 130
    return time.monotonic() - told


@pytest.mark.slow  # two whole runs, three times stopped
@pytest.mark.timeout(900)
def test_ctrl_c_anywhere_loses_nothing_that_was_durable(tmp_path: Path) -> None:
    succeed(start_small(tmp_path, "unbroken", *QUICK), tmp_path)

    process = start_small(tmp_path, "stopped", *QUICK)
    begun_early(process, tmp_path / "stopped")
    interrupted(process, lambda: True, tmp_path)
    assert not (tmp_path / "stopped" / "prepared" / ".done").exists(), "it was stopped while preparing"

    process = start("resume", "stopped", runs=tmp_path)
    ledger = begun(process, tmp_path, "stopped", time.monotonic() + 180)
    interrupted(process, lambda: ledger.phase("collect", 1, "chunk-0") is not None, tmp_path)
    drawn = {name: ledger.phase("collect", 1, name) for name in chunks(ledger)}
    assert 1 <= len(drawn) < 8, "it was stopped in mid-collection"

    process = start("resume", "stopped", runs=tmp_path)
    seconds = interrupted(process, lambda: ledger.phase("ppo", 2, "scored") is not None, tmp_path, times=2)
    assert seconds < 15, "the second Ctrl-C stops at once"
    scored = ledger.phase("ppo", 2, "scored")

    succeed(start("resume", "stopped", runs=tmp_path), tmp_path)
    assert {name: ledger.phase("collect", 1, name) for name in drawn} == drawn, "no chunk was drawn again"
    assert ledger.phase("ppo", 2, "scored") == scored
    ours, theirs = (ledger_of(tmp_path, name).latest_version("policy") for name in ("stopped", "unbroken"))
    assert ours is not None and theirs is not None and ours["sha256"] == theirs["sha256"]
    assert verify(ledger, tmp_path / "stopped").findings == []


def begun_early(process: "subprocess.Popen[str]", directory: Path) -> None:
    """Returns once the orchestrator handles signals: it prepares by then."""
    deadline = time.monotonic() + 60
    while not (directory / "orchestrator.lock").exists() or not any_file(directory / "prepared"):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.005)


def any_file(directory: Path) -> bool:
    return directory.exists() and any(directory.iterdir())


def chunks(ledger: object) -> list[str]:
    """The collection's chunks that are durable."""
    return [f"chunk-{i}" for i in range(8) if ledger.phase("collect", 1, f"chunk-{i}") is not None]  # type: ignore[attr-defined]
