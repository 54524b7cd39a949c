"""Where the time goes."""

import time

import pytest

from orchestrator.timekeeping import Timekeeper
from trueline.v1 import types_pb2


def test_overlapping_work_counts_once() -> None:
    keeper = Timekeeper()
    keeper.intervals = [(0.2, 1.0), (0.7, 1.5), (3.0, 4.0)]
    assert keeper.computing(0.0, 2.0) == pytest.approx(1.3)
    assert keeper.overhead_fraction(0.0, 2.0) == pytest.approx(0.35)


def test_work_outside_a_span_does_not_count_in_it() -> None:
    keeper = Timekeeper()
    keeper.intervals = [(0.0, 1.0), (1.8, 5.0)]
    assert keeper.computing(0.5, 2.0) == pytest.approx(0.7)


def test_a_phase_without_model_work_is_all_overhead() -> None:
    keeper = Timekeeper()
    with keeper.phase("published"):
        time.sleep(0.02)
    taken = keeper.take_phases()
    assert taken["phase_overhead"]["published"] == taken["phase_seconds"]["published"] >= 0.02
    assert keeper.take_phases() == {"phase_seconds": {}, "phase_overhead": {}}


def test_a_reply_counts_back_from_its_arrival() -> None:
    keeper = Timekeeper()
    with keeper.phase("trained"):
        time.sleep(0.05)
        keeper.computed(types_pb2.Timing(compute_seconds=0.03))
    assert keeper.phase_overhead["trained"] == pytest.approx(
        keeper.phase_seconds["trained"] - 0.03, abs=0.005
    )
