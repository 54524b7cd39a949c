"""Reports of evaluations: the curve over the KL, and the tables beside before and after."""

from pathlib import Path
from typing import Any

from orchestrator.curves import draw_curves
from orchestrator.evaluation.overoptimisation import RL, Law, curve_of_rounds
from orchestrator.evaluation.tables import evaluation_tables
from orchestrator.report import render_html


def report_of_rounds() -> dict[str, Any]:
    law = Law(RL, 1.5, 0.7)
    rounds = [
        {"round": n, "status": "committed", "kl_reference_k1": float(n * n), "gold": law.gain(n), "proxy": n}
        for n in range(5)
    ]
    return {"run": "a", "rounds": rounds, "over_optimisation": curve_of_rounds(rounds)}


def test_a_run_shows_the_law_of_its_rounds_and_where_gold_is_highest(tmp_path: Path) -> None:
    report = report_of_rounds()
    (table,) = evaluation_tables(report)
    said = {row[0]: row[1:] for row in table.rows}
    assert said["alpha, beta"][0] == "1.500, 0.700"
    assert said["KL at the peak"] == ["9.83", "nats per sequence; measured up to there"]
    assert draw_curves(report, tmp_path / "a.png")
    assert "Gold over the KL of the rounds" in render_html(report, b"")


def test_a_curve_alone_is_drawn_and_a_peak_beyond_it_is_called_a_guess(tmp_path: Path) -> None:
    report = report_of_rounds()
    report["over_optimisation"] = curve_of_rounds(report.pop("rounds")[:3])
    assert draw_curves(report, tmp_path / "a.png")
    assert "a guess" in str(evaluation_tables(report)[0].rows)


def test_a_law_that_fits_badly_is_not_passed_off_as_one() -> None:
    golds = [0.0, 1.0, -1.0, 1.0, -1.0]
    rounds = [{"round": n, "kl_reference_k1": float(n), "gold": gold} for n, gold in enumerate(golds)]
    (table,) = evaluation_tables({"over_optimisation": curve_of_rounds(rounds)})
    said = {row[0]: row[1:] for row in table.rows}
    assert "does not describe these points" in said["law of gold"][1]
    assert said["highest gold measured"] == ["1.00", "at a KL of 1.00"]


def test_a_run_without_gold_shows_no_law() -> None:
    assert evaluation_tables({"rounds": [{"round": 1, "kl_reference_k1": 1.0}]}) == []
