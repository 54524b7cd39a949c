"""Where the time of a run goes: seconds per phase, and the part of it in which no model computed."""

import bisect
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from trueline.v1 import types_pb2


class Timekeeper:
    """Collects when services computed, and how long phases took.

    A reply says how many seconds its model work took; the work is taken to have ended when the reply
    came, so that no clocks need agree. The overhead of a span is what the union of these intervals
    leaves free: with two replies at 1.0 s and 1.5 s after 0.8 s of work each, a span from 0 to 2 s has
    computed from 0.2 to 1.5, and its overhead is 0.7 s.
    """

    def __init__(self) -> None:
        self.last_progress = time.time()  # when a service last answered, in Unix time
        self.intervals: list[tuple[float, float]] = []  # in the order of their ends, as replies come
        self.phase_seconds: dict[str, float] = defaultdict(float)
        self.phase_overhead: dict[str, float] = defaultdict(float)

    def computed(self, timing: types_pb2.Timing) -> None:
        """A reply has just come with this timing."""
        now, self.last_progress = time.monotonic(), time.time()
        if timing.compute_seconds > 0:
            self.intervals.append((now - timing.compute_seconds, now))

    def computing(self, start: float, end: float) -> float:
        """Seconds between two moments in which some model computed."""
        first = bisect.bisect_right(self.intervals, start, key=lambda interval: interval[1])
        total, reached = 0.0, start
        for begin, finish in sorted(self.intervals[first:]):
            begin, finish = max(begin, reached), min(finish, end)
            if finish > begin:
                total, reached = total + finish - begin, finish
        return total

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts a span's seconds and overhead under a name."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.count(name, start)

    def count(self, name: str, start: float) -> None:
        """Counts the span from `start` to now under a name."""
        end = time.monotonic()
        self.phase_seconds[name] += end - start
        self.phase_overhead[name] += end - start - self.computing(start, end)

    def take_phases(self) -> dict[str, dict[str, float]]:
        """Seconds and overhead by phase since the last time they were taken."""
        taken = {"phase_seconds": dict(self.phase_seconds), "phase_overhead": dict(self.phase_overhead)}
        self.phase_seconds.clear()
        self.phase_overhead.clear()
        return taken

    def overhead_fraction(self, start: float, end: float) -> float:
        """The share of a span in which no model computed."""
        return 1 - self.computing(start, end) / (end - start) if end > start else 0.0
