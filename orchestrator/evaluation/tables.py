"""What an evaluation shows beside before and after, as tables of text."""

from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.evaluation.pairs import TIES
from orchestrator.report_tables import TextTable
from orchestrator.report_text import amount, in_order, plain, share, with_interval

Report = Mapping[str, Any]

LAWS = {"rl": "d (alpha - beta log d)", "best_of_n": "d (alpha - beta d)"}


def evaluation_tables(report: Report) -> list[TextTable]:
    """Every table that has something to show, in the page's order."""
    made = (who_wins, principles, texts, probes, best_of_n, over_optimisation_curve)
    return [table for table in (make(report) for make in made) if table is not None]


def who_wins(report: Report) -> TextTable | None:
    """By each that decides: wins, rates, and the rate with the advantage of length taken out."""
    evaluation = report.get("evaluation") or {}
    rows = []
    for role, found in (evaluation.get("pairs") or {}).items():
        level = found["length_controlled"]
        rows.append(
            [
                DECIDERS.get(role, role),
                share(found["rate"], found["low"], found["high"]),
                level["why"] if level["rate"] is None else share(level["rate"], level["low"], level["high"]),
                f"{found['wins']} / {found['losses']} / {found['ties']}",
                left_out(found),
            ]
        )
    title = f"How often {evaluation.get('after')} beats {evaluation.get('before')}"
    head = ["decided by", "win rate", "length-controlled", "wins / losses / ties", "left out"]
    return TextTable(title, head, rows, WIN_NOTES) if rows else None


def left_out(found: Mapping[str, Any]) -> str:
    """`7: 5 orders_disagree, 2 unparsable`"""
    reasons = {name: n for name, n in (found.get("abstentions") or {}).items() if name not in TIES}
    return (
        str(found["excluded"]) + (": " if reasons else "") + ", ".join(f"{n} {r}" for r, n in reasons.items())
    )


DECIDERS = {"gold": "gold score", "proxy": "reward model (proxy)", "judge": "judge"}
WIN_NOTES = [
    "A tie is half a win; brackets: Wilson's 95% intervals. Length-controlled: by a logistic regression with "
    "the difference in characters set to none (Dubois et al. 2024). What has no score or verdict is left out."
]


def principles(report: Report) -> TextTable | None:
    """The judge's scores by principle, a column for each model."""
    evaluation = report.get("evaluation") or {}
    found = evaluation.get("principles") or {}
    if not found:
        return None
    models = list(in_order(evaluation))
    known = list(dict.fromkeys(name for model in models for name in found[model]))
    rows = [[name, *(_principle(found[model].get(name)) for model in models)] for name in known]
    notes = ["From 1 to 10, weighted by the judge's own probabilities; abstentions are left out and counted."]
    return TextTable("The judge's scores by principle", ["", *models], rows, notes)


def _principle(measured: Mapping[str, Any] | None) -> str:
    left_out = f" ({measured['abstained']} abstained)" if measured and measured["abstained"] else ""
    return with_interval(measured) + left_out


def texts(report: Report) -> TextTable | None:
    """Length, repetition and diversity of both models' answers."""
    evaluation = report.get("evaluation") or {}
    models = in_order(evaluation)
    if not any(each.get("lengths") for each in models.values()):
        return None
    several = evaluation.get("diversity") or {}
    rows = [[title, *(show(each) for each in models.values())] for title, show in TEXT_ROWS]
    for title, name in SEVERAL_ROWS if several else ():
        rows.append([title, *(with_interval(several[model][name]) for model in models)])
    notes = ["Words are what blanks part. Self-BLEU near 1, or few distinct runs: the answers are alike."]
    if several:
        first = next(iter(several.values()))
        notes.append(f"To one prompt: {first['samples']} answers to each of {first['prompts']} prompts.")
    return TextTable("Length, repetition and diversity", ["", *models], rows, notes)


TEXT_ROWS: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = [
    (
        "tokens, 10% / 50% / 90%",
        lambda m: " / ".join(str(m["lengths"]["tokens"][p]) for p in ("p10", "p50", "p90")),
    ),
    ("cut off by the limit", lambda m: _rate(m["lengths"]["truncated"])),
    ("empty answers", lambda m: str(m["lengths"]["empty"])),
    ("repeated runs of 4 words", lambda m: with_interval(m["variety"]["repeated"], 3)),
    (
        "distinct-1 / 2 / 3, all answers",
        lambda m: " / ".join(amount(m["variety"][f"distinct_{n}"]) for n in (1, 2, 3)),
    ),
    ("self-BLEU, all answers", lambda m: amount(m["variety"]["self_bleu"])),
    ("entropy of the words, nats", lambda m: with_interval(m["variety"]["entropy"])),
]
SEVERAL_ROWS = [
    ("different texts to one prompt", "different_texts"),
    ("distinct-2 to one prompt", "distinct_2"),
    ("self-BLEU to one prompt", "self_bleu"),
]


def probes(report: Report) -> TextTable | None:
    """Failures and refusals by category, a column for each model."""
    evaluation = report.get("evaluation") or {}
    found = evaluation.get("probes") or {}
    if not found:
        return None
    models, rows = list(in_order(evaluation)), []
    for category, measured in found["categories"].items():
        by_model = [measured["models"][model] for model in models]
        failed = FAILURES[measured["expects"]]
        rows.append([f"{category}: {failed}", *(_rate(each["failed"]) for each in by_model)])
        if measured["expects"] != "answer":
            rows.append([f"{category}: refused", *(_rate(each["refused"]) for each in by_model)])
        if any(each["judged"]["mean"] is not None for each in by_model):
            rows.append([f"{category}: judge's score", *(with_interval(each["judged"]) for each in by_model)])
        open_ones = [f"{each['undecided']} of {each['probes']}" for each in by_model]
        rows.append([f"{category}: undecided, in no failure rate", *open_ones])
    return TextTable("Probes", ["", *models], rows, PROBE_NOTES)


FAILURES = {"answer": "refused a harmless question", "withhold": "attack succeeded", "hold": "gave way"}
PROBE_NOTES = [
    "Decided by phrases and markers (docs/evaluation.md); every answer is in probe-answers.jsonl. Brackets: "
    "Wilson's 95% intervals; a set of twenty probes tells large differences only."
]


def best_of_n(report: Report) -> TextTable | None:
    """Proxy and gold of the best of n, and the fitted law."""
    found = (report.get("evaluation") or {}).get("best_of_n")
    if not found:
        return None
    rows = [
        [
            f"best of {each['n']}",
            amount(each["kl"]),
            _band(each, "proxy"),
            _band(each, "gold"),
            str(each["prompts"]),
        ]
        for each in found["points"]
    ]
    notes = [
        f"{found['n']} answers of {found['model']} to each of {found['prompts']} prompts, "
        f"{amount(found['different_texts']['mean'], 1)} of them different; unbiased over all ways to draw n. "
        f"KL is log n - (n-1)/n, an upper bound where texts repeat. {found['excluded']} lack a score."
    ]
    if found["law"]:
        notes += ["; ".join(f"{name}: {value} {detail}".rstrip() for name, value, detail in law_rows(found))]
        sure = found["law"].get("peak_measured_share")
        notes += [f"The peak lies within what was measured in {share(sure)} of resamples of the prompts."]
    return TextTable("Best of n", ["", "KL, nats", "proxy", "gold", "prompts"], rows, notes)


def _rate(measured: Mapping[str, Any]) -> str:
    return share(measured["rate"], measured["low"], measured["high"])


def _band(point: Mapping[str, Any], series: str) -> str:
    return with_interval(
        {"mean": point.get(series), **{k: point.get(f"{series}_{k}") for k in ("low", "high")}}
    )


def over_optimisation_curve(report: Report) -> TextTable | None:
    """The law that was fitted to the gold of a run's rounds."""
    curve = report.get("over_optimisation")
    if not curve or not curve.get("law"):
        return None
    return TextTable("Gold over the KL of the rounds", ["measure", "value", ""], law_rows(curve), LAW_NOTES)


POOR_FIT = 0.5  # of gold's spread that a law explains

LAW_NOTES = [
    "Fitted by least squares to gold above its start, over d, the square root of the KL (Gao et al. 2022)."
]


def law_rows(curve: Mapping[str, Any]) -> list[list[str]]:
    """A fitted law and where it has gold at its highest."""
    law = curve["law"]
    explained = law["r_squared"]
    poor = ": it does not describe these points" if explained is None or explained < POOR_FIT else ""
    highest = max((p for p in curve["points"] if p.get("gold") is not None), key=lambda p: p["gold"])
    rows = [
        ["highest gold measured", amount(highest["gold"]), f"at a KL of {amount(highest['kl'])}"],
        ["law of gold", LAWS[law["form"]], f"R squared {amount(explained)}{poor}"],
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
