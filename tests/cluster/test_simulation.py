"""The manifests as processes in network namespaces: leader and replica killed, one joins, nothing lost."""

import json
import subprocess
import sys

import pytest

from benchmarks.cluster.__main__ import missing
from orchestrator.launcher import REPOSITORY


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_run_outlives_its_leader_and_a_policy_replica() -> None:
    if why := missing():
        pytest.skip(why)
    command = [sys.executable, "-m", "benchmarks.cluster", "--quick"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=1400)
    assert done.returncode == 0, done.stderr[-6000:]
    figures = json.loads(done.stdout)
    assert figures["findings"] == [] and figures["rounds"] == list(range(1, 25))
    assert figures["epochs"] == 2 and figures["takeover_seconds"] < 30
    assert set(figures["exit_codes"].values()) == {0}, figures["exit_codes"]
    spaces = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert figures["namespaces"] not in spaces
