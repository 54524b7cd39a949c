"""The report on feedback: who labelled comparisons, and how well the judge agrees with gold and people."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from orchestrator.judge_audit import audit
from orchestrator.ledger import Ledger
from orchestrator.report_tables import TextTable
from orchestrator.report_text import amount, plain, share

Report = Mapping[str, Any]


def feedback_of(ledger: Ledger) -> dict[str, Any]:
    """{"labels": {stage: {source: count}}, "judge": the audit}; a part that the run lacks is absent."""
    found: dict[str, Any] = {}
    labels = ledger.all_labels()
    by_stage: dict[str, Counter[str]] = {}
    for row in labels:
        if row["probability"] is not None:
            by_stage.setdefault(row["stage"], Counter())[row["source"]] += 1
    for stage in ledger.all_stages():
        for source, count in (stage["result"].get("sources") or {}).items():
            by_stage.setdefault(stage["stage"], Counter())[source] = count
    if by_stage:
        found["labels"] = {stage: dict(sources) for stage, sources in by_stage.items()}
    judged = audit(labels)
    if judged:
        found["judge"] = judged
    return found


def feedback_tables(report: Report) -> list[TextTable]:
    """Who labelled, and the judge's audit."""
    feedback = report.get("feedback") or {}
    labels, judge = feedback.get("labels") or {}, feedback.get("judge") or {}
    rows = [
        [stage, source, plain(count)]
        for stage, sources in labels.items()
        for source, count in sources.items()
    ]
    made = [TextTable("Who said which response is better", ["stage", "by", "pairs"], rows)] if rows else []
    return [*made, judge_table(judge)] if judge else made


def judge_table(judge: Report) -> TextTable:
    """How far the judge can be trusted: in all, and principle by principle."""
    sides = {"all": judge, **(judge.get("principles") or {}), **(judge.get("judges") or {})}
    rows = [
        ["pairs", *(plain(each["verdicts"]) for each in sides.values())],
        ["abstained", *(_share(each["abstention_share"]) for each in sides.values())],
        ["changed its mind with the order", *(_share(each["position_flips"]) for each in sides.values())],
        ["first-slot bias", *(_amount(each["first_slot_bias"]) for each in sides.values())],
        ["correlation with length", *(amount(each["length_correlation"]) for each in sides.values())],
    ]
    for other in ("gold", "people"):
        if judge[other]["n"]:
            rated = [each[other] for each in sides.values()]
            rows += [
                [f"agrees with {other}", *(_share(each["agreement_interval"]) for each in rated)],
                [f"kappa against {other}", *(_amount(each["kappa"]) for each in rated)],
                [
                    f"calibration error against {other}",
                    *(amount(each["calibration_error"]) for each in rated),
                ],
            ]
    by = ", ".join(judge["models"])
    notes = [f"Judged by {by}, in both orders; an abstention is no label. Brackets: 95% intervals."]
    return TextTable("The judge", ["", *sides], rows, notes)


def _share(figure: Report) -> str:
    return share(figure["mean"], figure["low"], figure["high"])


def _amount(figure: Report) -> str:
    if figure["mean"] is None or figure["low"] is None:
        return amount(figure["mean"])
    return f"{amount(figure['mean'])} [{amount(figure['low'])}, {amount(figure['high'])}]"
