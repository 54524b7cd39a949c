"""Progress: plain lines in a pipe, a live display on a terminal."""

import io
import math

import pytest
from rich.console import Console

from orchestrator import progress
from orchestrator.progress import (
    LiveProgress,
    PlainProgress,
    Progress,
    choose_progress,
    compact,
    duration,
    shown_metrics,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def told(display: Progress, steps: int = 60) -> None:
    display.stage_started("align", "ppo", 5, 7, steps)
    for step in range(1, steps + 1):
        metrics = {
            "score_mean": 0.5,
            "kl_reference_k1": 1.25,
            "clip_fraction": 0.1,
            "tokens_per_second": 12345.6,
        }
        display.step_done("align", step, steps, metrics)
    display.note("KL budget: warning at 8.1 nats")
    display.stage_finished("align", 75.2)
    display.close()


def test_a_pipe_gets_a_line_per_stage_and_ten_per_stages_steps() -> None:
    stream = io.StringIO()
    told(choose_progress(stream))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "stage 5/7 align (ppo, 60 steps)"
    assert lines[1].startswith("  align 6/60 reward 0.5 KL 1.25 tokens/s 12,346")
    assert [line.split()[1] for line in lines[1:11]] == [f"{step}/60" for step in range(6, 61, 6)]
    assert lines[11:] == ["note: KL budget: warning at 8.1 nats", "  align done in 1m15s"]
    assert "\x1b" not in stream.getvalue()


def test_the_last_step_is_told_even_where_it_is_off_the_beat() -> None:
    stream = io.StringIO()
    told(PlainProgress(stream), steps=13)
    assert [line.split()[1] for line in stream.getvalue().splitlines()[1:-2]] == [
        *("2/13", "4/13", "6/13", "8/13", "10/13", "12/13", "13/13")
    ]


def test_a_terminal_gets_the_stage_its_figures_and_notes() -> None:
    stream = Terminal()
    display = choose_progress(stream)
    assert isinstance(display, LiveProgress)
    told(display)
    shown = stream.getvalue()
    assert "note: KL budget: warning at 8.1 nats" in shown and "align in 1m15s" in shown


def test_the_live_display_shows_stage_step_and_the_watched_metrics() -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    display = LiveProgress(console)
    display.stage_started("align", "ppo", 5, 7, 60)
    display.step_done("align", 6, 60, {"score_mean": 0.5, "gold": 2.25, "kl_reference_k1": 1.25})
    with console.capture() as capture:
        console.print(display.live.get_renderable())
    display.close()
    shown = capture.get()
    assert "stage 5/7 align" in shown and "6/60" in shown and "left" in shown
    assert "reward 0.5" in shown and "gold 2.25" in shown and "KL 1.25" in shown


def test_time_left_counts_only_the_steps_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 102.0, 104.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    pace = progress.Pace()  # a resumed stage: 40 of 60 steps were done before
    assert pace.left(41, 60) == pytest.approx(2 * 19)
    assert pace.left(42, 60) == pytest.approx(2 * 18)


def test_an_unknown_number_of_steps_and_unknown_metrics_are_no_trouble() -> None:
    stream = io.StringIO()
    display = PlainProgress(stream)
    display.stage_started("export", "export", 7, 7, 0)
    display.step_done("export", 1, 0, {"gold": math.nan, "unheard_of": 1.0})
    assert stream.getvalue().splitlines() == ["stage 7/7 export", "  export 1 gold none"]


def test_a_metric_that_is_not_measured_in_every_step_stays_known_within_its_stage() -> None:
    stream = io.StringIO()
    display = PlainProgress(stream)
    display.stage_started("ppo", "ppo", 1, 2, 2)
    display.step_done("ppo", 1, 2, {"gold": 2.5})
    display.step_done("ppo", 2, 2, {"entropy": 1.0})
    display.stage_started("more", "ppo", 2, 2, 1)
    display.step_done("more", 1, 1, {"entropy": 0.5})
    lines = stream.getvalue().splitlines()
    assert lines[2] == "  ppo 2/2 gold 2.5 entropy 1" and lines[4] == "  more 1/1 entropy 0.5"


def test_the_rate_of_generation_is_of_the_whole_step() -> None:
    metrics = {"rollouts": 128.0, "response_tokens_mean": 15.0, "seconds": 1.5}
    assert shown_metrics(metrics) == [("length", "15"), ("tokens/s", "1,280")]


def test_figures_are_short() -> None:
    assert [compact(value) for value in (0.52345, 12345.6, -2.0)] == ["0.523", "12,346", "-2"]
    assert [duration(seconds) for seconds in (4.4, 75, 7260)] == ["4s", "1m15s", "2h01m"]
