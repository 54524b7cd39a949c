"""What an evaluation shows beside before and after, as tables of text."""

from collections.abc import Mapping
from typing import Any

from orchestrator.report_tables import TextTable
from orchestrator.report_text import amount, plain

Report = Mapping[str, Any]

LAWS = {"rl": "d (alpha - beta log d)", "best_of_n": "d (alpha - beta d)"}


def evaluation_tables(report: Report) -> list[TextTable]:
    """Every table that has something to show, in the page's order."""
    made = (over_optimisation_curve,)
    return [table for table in (make(report) for make in made) if table is not None]


def over_optimisation_curve(report: Report) -> TextTable | None:
    """The law that was fitted to the gold of a run's rounds."""
    curve = report.get("over_optimisation")
    if not curve or not curve.get("law"):
        return None
    return TextTable("Gold over the KL of the rounds", ["measure", "value", ""], law_rows(curve), LAW_NOTES)


LAW_NOTES = [
    "Fitted by least squares to gold above its start, over d, the square root of the KL (Gao et al. 2022)."
]


def law_rows(curve: Mapping[str, Any]) -> list[list[str]]:
    """A fitted law and where it has gold at its highest."""
    law = curve["law"]
    rows = [
        ["law of gold", LAWS[law["form"]], f"R squared {amount(law['r_squared'])}"],
        ["alpha, beta", f"{amount(law['alpha'], 3)}, {amount(law['beta'], 3)}", ""],
    ]
    if law["peak_kl"] is None:
        return [*rows, ["peak of gold", "none", "by the fit, gold only rises or only falls"]]
    within = "measured up to there" if law["peak_measured"] else "beyond what was measured: a guess"
    best = curve["gold_at_start"] + law["peak_gain"]
    return [
        *rows,
        ["peak of gold, by the fit", amount(best), f"from {amount(curve['gold_at_start'])}"],
        ["KL at the peak", plain(round(law["peak_kl"], 2)), f"nats per sequence; {within}"],
    ]
