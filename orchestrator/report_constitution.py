"""What the judge was asked to write, and how it did where the answer was known, as tables of a report."""

from collections.abc import Mapping
from typing import Any

from orchestrator.report_tables import TextTable
from orchestrator.report_text import plain, share

Report = Mapping[str, Any]


def judge_check(report: Report) -> TextTable | None:
    """The judge on pairs whose answer is known, by principle."""
    found = report.get("judge_check")
    if not found:
        return None
    parts = {"all": found, **found.get("principles", {})}
    return TextTable(
        "The judge, on held-out pairs with known answers",
        ["principle", "right", "flipped", "abstained", "pairs"],
        [_judge_row(name, part) for name, part in parts.items()],
        [
            "Right: of the pairs on which it decides; brackets: 95% intervals. Flipped: it preferred another "
            "response once the two had changed places, and so it abstained."
        ],
    )


def _judge_row(name: str, part: Mapping[str, Any]) -> list[str]:
    accuracy, abstained = part["accuracy"], sum(part["abstained"].values())
    return [
        name,
        share(accuracy["value"], accuracy["low"], accuracy["high"]),
        share(part["flip_rate"]),
        share(abstained / part["pairs"]),
        plain(part["pairs"]),
    ]


def revisions(report: Report) -> TextTable | None:
    """What became of the responses that were criticised and revised."""
    found = report.get("revise")
    if not found:
        return None
    rows = [
        ["responses", plain(found["responses"]), ""],
        ["revised into demonstrations", plain(found["demonstrations"]), f"by {found['judge']}"],
        ["of these not as they were", plain(found["changed"]), ""],
        *(["dropped", plain(count), reason] for reason, count in found["dropped"].items()),
        *(["revisions by a principle", plain(count), name] for name, count in found["principles"].items()),
    ]
    return TextTable(
        "Critique and revision",
        ["measure", "value", ""],
        rows,
        [f"Constitution SHA-256 {found['constitution_sha256']}."],
    )


def constitution_tables(report: Report) -> list[TextTable]:
    """Those that have something to show."""
    return [table for table in (judge_check(report), revisions(report)) if table is not None]
