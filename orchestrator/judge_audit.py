"""An audit of a run's judge, from the verdicts that the ledger keeps: nothing is asked again.

audit(ledger.all_labels())["gold"]["kappa"]      {"mean": 0.71, "low": 0.66, "high": 0.76, "n": 812}

flips            the better response is another one once the two have changed places
first slot       mean probability of whatever stands first, over both orders, less 0.5
length           correlation of the probability that the first is better with how much longer it is
people, gold     agreement and Cohen's kappa where a person, or a gold score, says it too
scorer           the same against a scorer that is asked for the audit (judge_scoring.py), or nothing
calibration      how sure the judge is, against how often it is right by them
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from orchestrator.judge_statistics import agreement_of, brier, calibration_error, correlation, table_of
from orchestrator.statistics import mean_interval, share_interval

Row = dict[str, Any]
CHECK = "check:"  # before the item of a pair that a person labels beside the judge
BINS = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
ROUNDING = 1e-12  # 0.55 - 0.5 is a hair more than 0.05


def audit(labels: Sequence[Row]) -> dict[str, Any]:
    """Everything that can be said of the judge; {} where it gave no verdict."""
    verdicts = [row for row in labels if row["source"] == "judge"]
    if not verdicts:
        return {}
    name_of = names_of_judges(verdicts)
    models = Counter(name_of(row) for row in verdicts)
    return {
        "models": dict(models),
        "constitutions": sorted({row["verdict"]["constitution_sha256"] for row in verdicts}),
        **figures(verdicts, labels),
        "cost": cost(verdicts),
        "principles": figures_of(by_principle(verdicts), labels),
        "judges": figures_of(by_judge(verdicts, name_of), labels) if len(models) > 1 else {},
    }


def figures_of(parts: Mapping[str, Sequence[Row]], labels: Sequence[Row]) -> dict[str, Any]:
    """The figures of each part of the verdicts, by its name."""
    return {name: figures(parts[name], labels) for name in sorted(parts)}


def by_judge(verdicts: Sequence[Row], name_of: Callable[[Row], str]) -> dict[str, list[Row]]:
    """The verdicts of each judge."""
    parts: dict[str, list[Row]] = defaultdict(list)
    for row in verdicts:
        parts[name_of(row)].append(row)
    return parts


def by_principle(verdicts: Sequence[Row]) -> dict[str, list[Row]]:
    """What each principle says of the pairs that were judged by it: of an ensemble each one alone."""
    parts: dict[str, list[Row]] = defaultdict(list)
    for row in verdicts:
        names = principles_of(row)
        for name in names:
            parts[name].append(row if len(names) == 1 else by_itself(row, name))
    return parts


def by_itself(row: Row, principle: str) -> Row:
    """An ensemble's verdict as one of its principles alone would have given it, from its own two readings.

    Read by the rules of the question, as services/judge/verdicts.py does where one principle is drawn.
    """
    own = [each for each in readings_of(row) if each.get("principle") == principle]
    said = {**row["verdict"]["verdict"], "principles": [principle], "readings": own}
    alone = {**row, "verdict": {**row["verdict"], "verdict": said}, "probability": None, "reason": None}
    both = orders(alone)
    if both is None:
        return {**alone, "reason": next(reason_read(each) for each in own if "abstention" in each)}
    rules = row["question"].get("reading", {})
    reason = undecided(*both, rules.get("disagreement_tolerance", 0.0), rules.get("tie_band", 0.0))
    return {**alone, "reason": reason} if reason else {**alone, "probability": sum(both) / 2}


def undecided(as_given: float, swapped: float, tolerance: float, band: float) -> str:
    """Why two orders make no verdict, as services/judge/labels.py reads them; "" where they do."""
    if flipped(as_given, swapped) and abs(as_given - swapped) > tolerance:
        return "orders_disagree"
    return "tie" if abs((as_given + swapped) / 2 - 0.5) <= band + ROUNDING else ""


def figures(verdicts: Sequence[Row], labels: Sequence[Row]) -> dict[str, Any]:
    """What the verdicts, or those by one principle, say."""
    decided = [row for row in verdicts if row["probability"] is not None]
    reasons = Counter(row["reason"] for row in verdicts if row["probability"] is None)
    pairs = [both for row in verdicts if (both := orders(row)) is not None]
    flips = sum(flipped(*both) for both in pairs)
    slots = [(given + (1 - swapped)) / 2 - 0.5 for given, swapped in pairs]
    longer = [float(len(row["first"]) - len(row["second"])) for row in decided]
    n, unread = len(verdicts), reasons.get("unparsable", 0) + reasons.get("empty_answer", 0)
    return {
        "verdicts": n,
        "abstentions": dict(sorted(reasons.items())),
        "abstention_share": asdict(share_interval(sum(reasons.values()), n)),
        "parse_failures": asdict(share_interval(unread, n)),
        "position_flips": asdict(share_interval(flips, len(pairs))),
        "first_slot_bias": asdict(mean_interval(slots)),
        "length_correlation": correlation([row["probability"] for row in decided], longer),
        "gold": against([(row, row["gold_margin"]) for row in decided]),
        "people": against([(row, margin) for row, margin in checked(decided, labels)]),
        "scorer": against([(row, row.get("scorer_margin")) for row in decided]),
    }


def against(rated: Sequence[tuple[Row, float | None]]) -> dict[str, Any]:
    """The judge against somebody else's margins: above 0 the first is better; ties and None say nothing."""
    known = [(row["probability"], margin > 0) for row, margin in rated if margin]
    chances, truths = [p for p, _ in known], [truth for _, truth in known]
    agreement = agreement_of(table_of([p > 0.5 for p in chances], truths))
    right = [(p > 0.5) == truth for p, truth in known]
    return {
        **asdict(agreement),
        "agreement_interval": asdict(share_interval(sum(right), len(right))),
        "calibration_error": calibration_error([max(p, 1 - p) for p in chances], right, BINS),
        "brier": brier(chances, truths),
    }


def checked(verdicts: Sequence[Row], labels: Sequence[Row]) -> list[tuple[Row, float]]:
    """The verdicts of which a person has said something too: (row, the person's margin)."""
    people = {
        (row["stage"], row["round"], row["item"].removeprefix(CHECK)): row
        for row in labels
        if row["source"] == "person" and row["item"].startswith(CHECK) and row["probability"] is not None
    }
    found = [(row, people.get((row["stage"], row["round"], row["item"]))) for row in verdicts]
    return [(row, person["probability"] - 0.5) for row, person in found if person is not None]


def disagreements(labels: Sequence[Row]) -> list[Row]:
    """Pairs on which the judge and a person, gold or a scorer name different winners; the surest first."""
    verdicts = [row for row in labels if row["source"] == "judge" and row["probability"] is not None]
    others = [(row, "gold", row["gold_margin"]) for row in verdicts]
    others += [(row, "person", margin) for row, margin in checked(verdicts, labels)]
    others += [(row, "scorer", row.get("scorer_margin")) for row in verdicts]
    wrong = [
        {
            "stage": row["stage"],
            "round": row["round"],
            "item": row["item"],
            "prompt": row["prompt"],
            "first": row["first"],
            "second": row["second"],
            "judge": row["probability"],
            "other": other,
            "other_prefers": "first" if margin > 0 else "second",
            "principles": principles_of(row),
        }
        for row, other, margin in others
        if margin and (row["probability"] > 0.5) != (margin > 0)
    ]
    return sorted(wrong, key=lambda each: -abs(each["judge"] - 0.5))


def flipped(as_given: float, swapped: float) -> bool:
    """True where the two orders prefer different responses."""
    return (as_given - 0.5) * (swapped - 0.5) < 0


def orders(row: Row) -> tuple[float, float] | None:
    """The probability that the first is better: as given, and swapped; None where an order was not read.

    Of several principles the first counts: flips are those of one question. `by_principle` has each one's.
    """
    values = {
        reading.get("order"): reading["value"]
        for reading in reversed(readings_of(row))
        if "value" in reading and reading.get("principle") == principles_of(row)[0]
    }
    if values.keys() != {"ORDER_AS_GIVEN", "ORDER_SWAPPED"}:
        return None
    return values["ORDER_AS_GIVEN"], values["ORDER_SWAPPED"]


def cost(verdicts: Sequence[Row]) -> dict[str, int]:
    """Requests and tokens that the verdicts took; endpoints that tell no token counts are left out."""
    names = ("calls", "prompt_tokens", "completion_tokens")
    usages = [row["verdict"]["verdict"].get("usage", {}) for row in verdicts]
    return {name: sum(int(usage.get(name, 0)) for usage in usages) for name in names}


def principles_of(row: Row) -> list[str]:
    """The principles that a pair was judged by."""
    return list(row["verdict"]["verdict"].get("principles", []))


def readings_of(row: Row) -> list[Row]:
    """Every question and answer behind a verdict."""
    return list(row["verdict"]["verdict"].get("readings", []))


def reason_read(reading: Row) -> str:
    """Why a reading says nothing, such as "unparsable"."""
    return str(reading["abstention"]["reason"]).removeprefix("ABSTENTION_REASON_").lower()


def names_of_judges(verdicts: Sequence[Row]) -> Callable[[Row], str]:
    """model_of, with a piece of the digest where judges of other weights go by one name."""
    digests: dict[str, set[str]] = defaultdict(set)
    for row in verdicts:
        digests[model_of(row)].add(_digest_of(row))

    def name_of(row: Row) -> str:
        name = model_of(row)
        return name if len(digests[name]) == 1 else f"{name} ({_digest_of(row)[:8]})"

    return name_of


def _digest_of(row: Row) -> str:
    return str(row["verdict"]["judge"].get("version", {}).get("sha256", ""))


def model_of(row: Row) -> str:
    """Who judged: judge@2, or what the endpoint calls its model."""
    judge = row["verdict"]["judge"]
    number = judge.get("version", {}).get("number")
    return f"{judge.get('model', '')}@{number}" if number is not None else str(judge.get("model", ""))
