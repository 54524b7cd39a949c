"""Reports: whole files, no NaN, nothing to load from elsewhere, and what is absent is not invented."""

import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from orchestrator.curves import budgets, draw_curves, points
from orchestrator.report import ReportError, load_report, print_report, render_html, tiles, write_report
from orchestrator.report_tables import all_tables, before_after, limits, over_optimisation
from orchestrator.report_text import amount, seconds, share, with_interval, without_nan

PNG = b"\x89PNG"


def interval(mean: float, half: float) -> dict[str, Any]:
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": 512}


def one_round(number: int, **metrics: Any) -> dict[str, Any]:
    return {"round": number, "status": "committed", "seconds": 1.5, **metrics}


def full_report() -> dict[str, Any]:
    model = {"response_tokens_mean": 13.2, "ended_share": 0.998, "excluded": 0}
    return {
        "run": "helpdesk-ppo",
        "seed": 0,
        "recipe_sha256": "ab" * 32,
        "status": "finished",
        "started_at": "2025-01-01T10:00:00+00:00",
        "seconds_total": 312.4,
        "notes": ["ppo: left out {'non_finite': 3}"],
        "evaluation": {
            "prompts": 512,
            "temperature": 1.0,
            "models": {
                "sft": {"gold": interval(1.38, 0.1), "proxy": interval(0.02, 0.09), **model},
                "policy": {"gold": interval(3.32, 0.02), "proxy": interval(2.61, 0.03), **model},
            },
            "before": "sft",
            "after": "policy",
            "best_gold": 3.4,
            "ceilings": {"manners_only": 1.95},
            "gap_closed": 0.96,
            "win_rate": {"wins": 440, "losses": 30, "ties": 42, "rate": 0.9, "low": 0.871, "high": 0.923},
            "sequence_kl": {"k1": interval(4.3, 0.2), "k3": interval(4.1, 0.1)},
            "examples": [
                {
                    "prompt": "user: my <b>lamp</b> & radio",
                    "before": "<script>alert(1)</script>",
                    "after": "sorry about your lamp .",
                    "gold_before": 0.0,
                    "gold_after": None,
                }
            ],
        },
        "reward_model": {
            "heldout_accuracy": {"value": 0.8, "low": 0.77, "high": 0.83, "n": 600},
            "gold_agreement": {"value": 0.83, "low": 0.8, "high": 0.86, "n": 580},
            "train_accuracy": 0.82,
        },
        "stages": [{"name": "ppo", "kind": "ppo", "seconds": 83.0, "steps": 3, "overhead_fraction": 0.1}],
        "throughput": {
            "rollouts_per_second": 92.1,
            "generated_tokens_per_second": 1391.0,
            "overhead_fraction": 0.11,
            "phase_seconds": {"sampled": 20.0, "trained": 45.0},
        },
        "rounds": [
            one_round(1, score_mean=0.1, kl_reference_k1=0.5, entropy=1.0, response_tokens_mean=13.0),
            one_round(
                2, score_mean=0.9, kl_reference_k1=1.5, gold=2.0, gold_low=1.9, gold_high=2.1, proxy=0.8
            ),
            one_round(3, score_mean=None, kl_reference_k1=2.5, clip_fraction=0.1, explained_variance=0.5),
        ],
        "rollbacks": [{"round": 3, "good": 1, "number": 3, "kl": 15.2}],
        "settings": {
            "stages": {"sft": {}, "ppo": {"algorithm": {"kl_budget_soft": 3.0, "kl_budget_hard": 0.0}}}
        },
    }


def test_three_files_are_written_and_the_json_reads_back(tmp_path: Path) -> None:
    write_report(full_report(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "report.html", "report.json"]
    assert load_report(tmp_path) == full_report()
    text = (tmp_path / "report.json").read_text()
    assert list(json.loads(text)) == sorted(full_report()), "sorted, so that two runs can be compared by diff"
    assert (tmp_path / "curves.png").read_bytes().startswith(PNG)


def test_what_is_not_finite_is_null_and_never_a_number(tmp_path: Path) -> None:
    report = {"evaluation": {"gap_closed": math.nan}, "rounds": [{"round": 1, "entropy": math.inf}]}
    write_report(report, tmp_path)
    assert load_report(tmp_path) == {
        "evaluation": {"gap_closed": None},
        "rounds": [{"round": 1, "entropy": None}],
    }
    assert not (tmp_path / "curves.png").exists(), "there is nothing to draw"
    assert without_nan({1: (1.0, -math.inf)}) == {"1": [1.0, None]}


def test_the_page_loads_nothing_and_escapes_what_models_say(tmp_path: Path) -> None:
    write_report(full_report(), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?!data:image/png;base64,)[^"')\s]+""", page) == []
    assert "<script" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "my &lt;b&gt;lamp&lt;/b&gt; &amp; radio" in page
    for shown in ("1.38 [1.28, 1.48]", "90.0% [87.1%, 92.3%]", "440 wins, 30 losses, 42 ties", "5 min 12 s"):
        assert shown in page, shown
    assert "stages.ppo.algorithm.kl_budget_soft" in page


@pytest.mark.parametrize("missing", [*full_report(), "everything"])
def test_a_report_without_a_part_is_shown_without_it(missing: str, tmp_path: Path) -> None:
    report = {} if missing == "everything" else {k: v for k, v in full_report().items() if k != missing}
    if missing not in ("settings", "rollbacks"):  # the curves read these two, and take a while to draw
        report.pop("rounds", None)
    write_report(report, tmp_path)
    stream = io.StringIO()
    print_report(report, stream)
    assert "None" not in stream.getvalue() and "nan" not in stream.getvalue()
    assert "None" not in re.sub(r"base64,[^\"]*", "", (tmp_path / "report.html").read_text())


def test_a_run_without_gold_says_so_and_shows_the_proxy() -> None:
    report = full_report()
    for model in report["evaluation"]["models"].values():
        del model["gold"]
    for key in ("best_gold", "gap_closed", "win_rate", "ceilings"):
        del report["evaluation"][key]
    table = before_after(report)
    assert table is not None and [row[0] for row in table.rows][0] == "reward model's score (proxy)"
    assert any(line.startswith("There is no gold score") for line in limits(report))
    assert [title for title, _, _ in tiles(report)] == ["KL", "reward model"]
    assert "gold" not in str([each.rows for each in all_tables(report)[1:2]])


def test_a_run_that_is_not_finished_or_evaluated_says_so_first() -> None:
    said = limits({"status": "failed"})
    assert said[0] == "The run is failed, not finished: the figures are of what is done so far."
    assert said[1] == "No evaluation has run: nothing here says whether the model got better."


def test_over_optimisation_is_told_only_when_the_intervals_part() -> None:
    def rounds(last: float, proxy: float) -> dict[str, Any]:
        metrics = [(10, 2.7, 2.9), (20, 2.4, 3.3), (30, last, proxy)]
        return {
            "rounds": [
                one_round(number, gold=gold, gold_low=gold - 0.1, gold_high=gold + 0.1, proxy=of_proxy)
                for number, gold, of_proxy in metrics
            ]
        }

    assert over_optimisation(rounds(2.3, 3.4)) == [
        "Over-optimised: gold fell from 2.70 in round 10 to 2.30 in round 30, "
        "while the proxy rose from 2.90 to 3.40."
    ]
    assert over_optimisation(rounds(2.3, 2.0)) == [
        "Over-optimised: gold fell from 2.70 in round 10 to 2.30 in round 30."
    ]
    assert over_optimisation(rounds(2.55, 3.4)) == [], "2.55 + 0.1 reaches 2.7 - 0.1"
    assert over_optimisation({"rounds": [one_round(1, gold=1.0)]}) == []


def test_the_terminal_gets_the_table_with_both_models_and_the_win_rate() -> None:
    stream = io.StringIO()
    print_report(json.loads(json.dumps(full_report(), sort_keys=True)), stream)
    shown = stream.getvalue()
    assert "1.38 [1.28, 1.48]" in shown and "3.32 [3.30, 3.34]" in shown
    assert shown.index("sft") < shown.index("policy"), "before comes first, though p sorts before s"
    assert "90.0% [87.1%, 92.3%]" in shown and "440 wins" in shown
    assert "note: ppo: left out {'non_finite': 3}" in shown


def test_a_stored_report_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="report.json: cannot be read"):
        load_report(tmp_path)
    (tmp_path / "report.json").write_text('{"run": ')
    with pytest.raises(ReportError, match="is not a report"):
        load_report(tmp_path)
    (tmp_path / "report.json").write_text("[]")
    with pytest.raises(ReportError, match="is not a report"):
        load_report(tmp_path)


def test_curves_are_drawn_from_the_rounds_that_have_the_metric(tmp_path: Path) -> None:
    rounds = full_report()["rounds"]
    assert points(rounds, "score_mean") == ([1, 2], [0.1, 0.9])
    assert points(rounds, "gold") == ([2], [2.0])
    assert draw_curves(full_report(), tmp_path / "a.png") is True
    assert draw_curves({"rounds": [{"round": 1}]}, tmp_path / "b.png") is False
    assert not (tmp_path / "b.png").exists()


def test_budgets_are_those_of_the_stage_that_has_them() -> None:
    assert budgets(full_report()["settings"]) == {"soft budget": 3.0}
    assert budgets({}) == {}


def test_the_page_of_nothing_is_still_a_page() -> None:
    assert "No evaluation has run" in render_html({}, b"")


def test_figures_say_what_is_known() -> None:
    assert [amount(None), amount(1.375), amount(12345.6), amount(-0.001)] == ["-", "1.38", "12,346", "0.00"]
    assert with_interval({"mean": 1.0, "low": None, "high": None, "n": 1}) == "1.00"
    assert [share(0.5), share(None), share(0.64, 0.542, 0.727)] == ["50.0%", "-", "64.0% [54.2%, 72.7%]"]
    assert [seconds(12.34), seconds(754.0), seconds(None)] == ["12.3 s", "12 min 34 s", "-"]


def test_seconds_are_rounded_before_they_are_minutes() -> None:
    assert [seconds(179.6), seconds(3599.7), seconds(120.0)] == ["3 min 0 s", "60 min 0 s", "2 min 0 s"]
