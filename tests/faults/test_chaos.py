"""A run under some 40 faults ends as the same run left alone; and the schedule keeps its promises."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.chaos.judge import LEAST_DEATHS, LEAST_FAULTS, LEAST_OF_KIND
from benchmarks.chaos.schedule import full_schedule, quick_schedule
from orchestrator.launcher import REPOSITORY
from tests.faults.plan import KINDS


@pytest.mark.parametrize("seed", range(3))
def test_the_full_schedule_holds_every_kind_and_every_death_often_enough(seed: int) -> None:
    faults = full_schedule(rounds=60, seed=seed)
    kinds = Counter(each.kind for each in faults)
    died = Counter(
        "orchestrator" if each.side == "caller" else each.service for each in faults if each.kind == "die"
    )
    assert len(faults) >= LEAST_FAULTS and set(kinds) == set(KINDS)
    assert min(kinds.values()) >= LEAST_OF_KIND
    assert len(died) == 5 and min(died.values()) >= LEAST_DEATHS
    assert len({each.number for each in faults}) == len(faults)
    assert all(0 <= each.round <= 57 for each in faults), "each has rounds left to fire in"


def test_the_order_of_deaths_is_the_seeds() -> None:
    assert full_schedule(60, 1) == full_schedule(60, 1) != full_schedule(60, 2)
    assert {each.kind for each in quick_schedule(8, 0)} == set(KINDS)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_under_faults_ends_as_one_left_alone(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.chaos", "--quick", "--keep", str(tmp_path / "chaos")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=1700,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    report = json.loads(done.stdout)
    assert report["shortfalls"] == [] and report["same"]["weights_identical"]
    assert report["faults"]["fired"] == report["faults"]["planned"] >= 40
