"""A real Prometheus scrapes a PPO run and a DPO run: panels, alerts, metrics, and the ledger's own series."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from k8s.monitoring.prometheus import MISSING
from orchestrator.launcher import REPOSITORY

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason=MISSING),
]


def test_panels_have_data_alerts_evaluate_and_the_chart_is_the_ledgers(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.panels", "--runs", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout, done.stderr[-4000:]
    found = json.loads(done.stdout)
    assert found["unexplained"] == [] and found["missing"] == [] and found["failing_alerts"] == []
    assert found["different"] == [] and found["ledger_numbers_compared"] > 200
    assert found["with_data"] + found["explained"] == found["queries"] and found["alerts"] >= 13
    assert done.returncode == 0
