"""A run's report: report.json for programs, curves.png, and report.html, one file a person can pass on.

Any part may be absent, as in a run without evaluation or without a gold score: what is there is shown.
"""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.console import Console
from rich.table import Table

from orchestrator.curves import draw_curves
from orchestrator.evaluation.tables import evaluation_tables
from orchestrator.report_constitution import constitution_tables
from orchestrator.report_feedback import feedback_tables
from orchestrator.report_tables import (
    TextTable,
    all_tables,
    before_after,
    labels,
    limits,
    outcome,
    over_optimisation,
    preference,
    reward_model,
    settings,
    throughput,
)
from orchestrator.report_text import amount, plain, seconds, share, with_interval, without_nan
from orchestrator.whole_files import replaced

TEMPLATES = Path(__file__).parent / "templates"


class ReportError(ValueError):
    """A stored report cannot be read."""


def write_report(report: Mapping[str, Any], directory: Path) -> None:
    """Writes report.json, curves.png (where rounds have something to draw) and report.html, each whole."""
    directory.mkdir(parents=True, exist_ok=True)
    shown = without_nan(report)
    text = json.dumps(shown, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    _replace(directory / "report.json", (text + "\n").encode())
    drawn = directory / ".curves.png.tmp"
    picture = b""
    if draw_curves(shown, drawn):
        picture = drawn.read_bytes()
        drawn.replace(directory / "curves.png")
    _replace(directory / "report.html", render_html(shown, picture).encode())


def load_report(directory: Path) -> dict[str, Any]:
    """The report that lies in a run's directory. Raises ReportError."""
    path = directory / "report.json"
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ReportError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ReportError(f"{path}: is not a report ({error})") from None
    if not isinstance(report, dict):
        raise ReportError(f"{path}: is not a report (a {type(report).__name__})")
    return report


def render_html(report: Mapping[str, Any], picture: bytes) -> str:
    """The page, with the picture in it and nothing to load from elsewhere."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    evaluation = report.get("evaluation") or {}
    return environment.get_template("report.html.j2").render(
        report={"run": None, "recipe_sha256": None, "notes": [], **report},
        subtitle=subtitle(report),
        tiles=tiles(report),
        tables=[
            *all_tables(report),
            *feedback_tables(report),
            *constitution_tables(report),
            *evaluation_tables(report),
        ],
        settings=settings(report),
        limits=limits(report),
        warnings=over_optimisation(report),
        picture=base64.b64encode(picture).decode(),
        examples=[example(each) for each in evaluation.get("examples") or []],
        before=evaluation.get("before") or "before",
        after=evaluation.get("after") or "after",
    )


def subtitle(report: Mapping[str, Any]) -> str:
    """`finished, seed 0, started 2025-01-01T10:00:00+00:00, took 5 min 12 s`"""
    parts = [
        plain(report["status"]) if report.get("status") else "",
        f"seed {report['seed']}" if report.get("seed") is not None else "",
        f"started {report['started_at']}" if report.get("started_at") else "",
        f"took {seconds(report['seconds_total'])}" if report.get("seconds_total") is not None else "",
    ]
    return ", ".join(part for part in parts if part)


def tiles(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(title, figure, detail) of the handful that a reader looks for first."""
    evaluation = report.get("evaluation") or {}
    rate = evaluation.get("win_rate") or {}
    models = evaluation.get("models") or {}
    after = models.get(evaluation.get("after")) or {}
    before = models.get(evaluation.get("before")) or {}
    kl = (evaluation.get("sequence_kl") or {}).get("k1") or {}
    accuracy = (report.get("reward_model") or {}).get("heldout_accuracy") or {}
    found = [
        ("gap closed", share(evaluation.get("gap_closed")), "of what was left to gain"),
        (
            "gold after",
            amount((after.get("gold") or {}).get("mean")),
            f"before: {with_interval(before.get('gold'))}",
        ),
        ("win rate", share(rate.get("rate")), f"95%: {share(rate.get('low'))} to {share(rate.get('high'))}"),
        ("KL", amount(kl.get("mean"), 1), "nats per sequence"),
        ("reward model", share(accuracy.get("value")), "right on held-out pairs"),
    ]
    return [tile for tile in found if tile[1] != "-"]


def example(given: Mapping[str, Any]) -> dict[str, str]:
    """One prompt with both answers, as text; the gold scores are empty where there are none."""
    texts = {key: str(given.get(key) or "") for key in ("prompt", "before", "after")}
    scores = {key: given.get(key) for key in ("gold_before", "gold_after")}
    return texts | {key: "" if value is None else amount(value) for key, value in scores.items()}


def print_report(report: Mapping[str, Any], stream: TextIO | None = None) -> None:
    """The tables that matter most, for a terminal or a pipe."""
    shown = without_nan(report)
    console = Console(file=stream, highlight=False)
    if stream is None and not console.is_terminal:
        console = Console(highlight=False, width=100)
    made = (before_after, outcome, reward_model, preference, labels, throughput)
    after = [*evaluation_tables(shown), *feedback_tables(shown), *constitution_tables(shown)]
    for table in [*(make(shown) for make in made), *after]:
        if table is not None:
            console.print(_rich(table))
            for note in table.notes:
                console.print(note, style="dim", markup=False)
    for line in over_optimisation(shown):
        console.print(line, style="bold red", markup=False)
    for note in shown.get("notes") or []:
        console.print(f"note: {note}", style="yellow", markup=False)


def _rich(table: TextTable) -> Table:
    made = Table(title=table.title, title_justify="left", title_style="bold")
    for index, name in enumerate(table.head):
        made.add_column(name.replace("[", "\\["), justify="left", no_wrap=index == 1)
    for row in table.rows:
        made.add_row(*(cell.replace("[", "\\[") for cell in row))  # brackets would be read as markup
    return made


def _replace(path: Path, content: bytes) -> None:
    """A reader sees the old file or the new one."""
    with replaced(path) as file:
        file.write(content)
