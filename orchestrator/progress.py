"""Tells a person how a run goes: a live display on a terminal, plain lines in a pipe."""

import sys
import time
from collections.abc import Mapping
from typing import Protocol, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

# Shown in this order, under these names; other metrics stay in the ledger and the report.
SHOWN = (
    ("loss", "loss"),
    ("accuracy", "accuracy"),
    ("margin_mean", "margin"),
    ("score_mean", "reward"),
    ("gold", "gold"),
    ("kl_reference_k1", "KL"),
    ("entropy", "entropy"),
    ("response_tokens_mean", "length"),
    ("tokens_per_second", "tokens/s"),
)
LINES_PER_STAGE = 10  # plain lines that a stage's steps may take


class Progress(Protocol):
    """What a run tells while it goes. Stages come in order, one at a time."""

    def stage_started(self, name: str, kind: str, index: int, count: int, total_steps: int) -> None:
        """Stage `index` (from 1) of `count` begins; `total_steps` is 0 when unknown."""

    def step_done(self, name: str, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """`done` steps of `total` are over; `metrics` are the last one's."""

    def note(self, text: str) -> None:
        """One sentence that must not be missed."""

    def stage_finished(self, name: str, seconds: float) -> None:
        """The stage is over."""

    def close(self) -> None:
        """Nothing more will be told."""


def choose_progress(stream: TextIO | None = None) -> Progress:
    """The live display where `stream` (stderr) is a terminal, else plain lines."""
    stream = stream or sys.stderr
    return LiveProgress(Console(file=stream)) if stream.isatty() else PlainProgress(stream)


def shown_metrics(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    """[("reward", "0.52"), ("KL", "1.3")]: the metrics a person watches."""
    known = {**_generation_rate(metrics), **metrics}
    return [(title, compact(known[key])) for key, title in SHOWN if known.get(key) is not None]


def _generation_rate(metrics: Mapping[str, float]) -> dict[str, float]:
    """Generated tokens per second of the whole step, training included."""
    try:
        tokens = metrics["rollouts"] * metrics["response_tokens_mean"]
        return {"tokens_per_second": tokens / metrics["seconds"]}
    except (KeyError, ZeroDivisionError):
        return {}


def compact(value: float) -> str:
    """0.52345 is "0.523", 12345.6 is "12,346"."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value == value else "none"


def duration(seconds: float) -> str:
    """75 is "1m15s"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


class Pace:
    """Time left in a stage, from the steps it has done."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.first: tuple[int, float] | None = None

    def left(self, done: int, total: int) -> float | None:
        """Seconds, or None before a step was timed. The first steps of a resumed stage were done before."""
        now = time.monotonic()
        if self.first is None:
            self.first = (max(0, done - 1), self.started)
        steps, since = done - self.first[0], now - self.first[1]
        return since / steps * (total - done) if steps > 0 and 0 < done <= total else None


class PlainProgress:
    """One line per stage start and end, and about ten per stage between them.

    stage 5/7 ppo
      ppo 6/60 reward 0.52 gold 2.1 KL 1.3 (1m15s left)
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.pace = Pace()
        self.known: dict[str, float] = {}  # gold is measured in some rounds only

    def stage_started(self, name: str, kind: str, index: int, count: int, total_steps: int) -> None:
        """See Progress."""
        self.pace, self.known = Pace(), {}
        steps = f", {total_steps} steps" if total_steps else ""
        self._write(f"stage {index}/{count} {name}" + (f" ({kind}{steps})" if kind != name or steps else ""))

    def step_done(self, name: str, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """See Progress."""
        self.known.update(metrics)
        left = self.pace.left(done, total)
        if done != total and done % max(1, -(-total // LINES_PER_STAGE)) != 0:
            return
        figures = "".join(f" {title} {value}" for title, value in shown_metrics(self.known))
        ending = f" ({duration(left)} left)" if left and done < total else ""
        self._write(f"  {name} {_of(done, total)}{figures}{ending}")

    def note(self, text: str) -> None:
        """See Progress."""
        self._write(f"note: {text}")

    def stage_finished(self, name: str, seconds: float) -> None:
        """See Progress."""
        self._write(f"  {name} done in {duration(seconds)}")
        self.known = {}  # of a refresh: the stage that it is within goes on

    def close(self) -> None:
        """See Progress."""
        self.stream.flush()

    def _write(self, line: str) -> None:
        print(line, file=self.stream, flush=True)


class LiveProgress:
    """A bar and the last figures of the running stage, below the lines of finished ones."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = Live(console=console, refresh_per_second=4, transient=True)
        self.pace = Pace()
        self.title = ""
        self.known: dict[str, float] = {}  # gold is measured in some rounds only
        self.live.start()

    def stage_started(self, name: str, kind: str, index: int, count: int, total_steps: int) -> None:
        """See Progress."""
        self.pace, self.known, self.title = Pace(), {}, f"stage {index}/{count} {name}"
        self._show(0, total_steps)

    def step_done(self, name: str, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """See Progress."""
        self.known.update(metrics)
        self._show(done, total)

    def note(self, text: str) -> None:
        """See Progress."""
        self.live.console.print(Text(f"note: {text}", style="yellow"))

    def stage_finished(self, name: str, seconds: float) -> None:
        """See Progress."""
        self.live.console.print(Text.assemble(("done ", "green"), f"{name} in {duration(seconds)}"))
        self.live.update(Text(""))
        self.known = {}  # of a refresh: the stage that it is within goes on

    def close(self) -> None:
        """See Progress."""
        self.live.stop()

    def _show(self, done: int, total: int) -> None:
        row = Table.grid(padding=(0, 1))
        left = self.pace.left(done, total) if done else None
        ending = f"{duration(left)} left" if left is not None else ""
        bar = ProgressBar(total=total or None, completed=done, width=30, pulse=not total)
        row.add_row(Text(self.title, style="bold"), bar, Text(_of(done, total)), Text(ending))
        self.live.update(Group(row, _figures(self.known)))


def _of(done: int, total: int) -> str:
    return f"{done}/{total}" if total else str(done)


def _figures(metrics: Mapping[str, float]) -> Text:
    text = Text()
    for title, value in shown_metrics(metrics):
        text.append(f"  {title} ", style="dim")
        text.append(value)
    return text
