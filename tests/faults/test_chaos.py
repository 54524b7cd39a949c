"""A run under some 40 faults ends as the same run left alone; and the schedule keeps its promises."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chaos.judge import LEAST_DEATHS, LEAST_FAULTS, LEAST_OF_KIND, shortfalls
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


def passing() -> dict[str, Any]:
    """A report of a whole run that lacks nothing."""
    same = {"weights_identical": True, "trained_twice": 0, "rollouts_different": [], "recount_faults": []}
    faults = {
        "not_fired": [],
        "fired": LEAST_FAULTS,
        "by_kind": dict.fromkeys(KINDS, LEAST_OF_KIND),
        "deaths": dict.fromkeys(("orchestrator", "trainer"), LEAST_DEATHS),
        "reorders_that_swapped": 3,
        "repeats_answered_otherwise": [],
    }
    return {
        "run": {"finished": True, "stalls": []},
        "same": same,
        "verify": {"clean": True, "said": ""},
        "calls": {"beyond_limit_and_grace": []},
        "faults": faults,
    }


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("run", "finished"), False),
        (("run", "stalls"), ["ppo 3"]),
        (("same", "weights_identical"), False),
        (("same", "trained_twice"), 1),
        (("same", "rollouts_different"), ["ppo 1"]),
        (("same", "recount_faults"), ["ppo 1"]),
        (("verify", "clean"), False),
        (("calls", "beyond_limit_and_grace"), [1.5]),
        (("faults", "not_fired"), ["hang"]),
        (("faults", "fired"), LEAST_FAULTS - 1),
        (("faults", "by_kind"), {"hang": LEAST_OF_KIND - 1}),
        (("faults", "deaths"), {"policy": LEAST_DEATHS - 1}),
        (("faults", "reorders_that_swapped"), 0),
        (("faults", "repeats_answered_otherwise"), ["Score"]),
    ],
)
def test_each_figure_can_keep_a_run_from_passing(place: tuple[str, str], value: Any) -> None:
    report = passing()
    assert shortfalls(report, full=True) == []
    report[place[0]][place[1]] = value
    assert len(shortfalls(report, full=True)) == 1


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
