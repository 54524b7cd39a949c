"""A report as tables of text and honest sentences; the page and the terminal show the same ones."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.report_text import UNKNOWN, amount, in_order, plain, seconds, share, with_interval

Report = Mapping[str, Any]


@dataclass(frozen=True)
class TextTable:
    """A table whose cells are text already; the first column names what the others measure."""

    title: str
    head: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)


def before_after(report: Report) -> TextTable | None:
    """The table that the run is about: the same prompts, before and after."""
    evaluation = report.get("evaluation")
    if not evaluation or not evaluation.get("models"):
        return None
    models = in_order(evaluation)
    rows = [
        ["gold score", *(with_interval(each.get("gold")) for each in models.values())],
        ["reward model's score (proxy)", *(with_interval(each.get("proxy")) for each in models.values())],
        ["response tokens", *(amount(each.get("response_tokens_mean"), 1) for each in models.values())],
        ["ended by itself", *(share(each.get("ended_share")) for each in models.values())],
        ["scores missing, left out", *(plain(each.get("excluded")) for each in models.values())],
    ]
    known = [row for row in rows if any(cell != UNKNOWN for cell in row[1:])]
    return TextTable(
        f"Before and after, on {plain(evaluation.get('prompts'))} held-out prompts",
        ["", *models],
        known,
        [f"One sample each at temperature {plain(evaluation.get('temperature'))}; brackets: 95% intervals."],
    )


def outcome(report: Report) -> TextTable | None:
    """What became of the gap, and what it cost in KL."""
    evaluation = report.get("evaluation") or {}
    rate, kl = evaluation.get("win_rate") or {}, evaluation.get("sequence_kl") or {}
    counts = f"{rate.get('wins')} wins, {rate.get('losses')} losses, {rate.get('ties')} ties" if rate else ""
    rows = [
        [
            "win rate of after over before (gold)",
            share(rate.get("rate"), rate.get("low"), rate.get("high")),
            counts,
        ],
        ["gap closed", share(evaluation.get("gap_closed")), "(after - before) / (best - before)"],
        [
            "best possible gold",
            amount(evaluation.get("best_gold")),
            "mean of the best any response could get",
        ],
    ]
    for name, value in (evaluation.get("ceilings") or {}).items():
        rows.append(
            [f"ceiling: {name.replace('_', ' ')}", amount(value), "what perfecting this alone would give"]
        )
    rows += [
        ["KL to the reference, k1", with_interval(kl.get("k1")), "nats per sequence"],
        ["KL to the reference, k3", with_interval(kl.get("k3")), "nats per sequence"],
    ]
    return _table("Outcome", ["measure", "value", ""], rows)


def reward_model(report: Report) -> TextTable | None:
    """How good the proxy is."""
    found = report.get("reward_model") or {}
    rows = []
    for key, title in (
        ("heldout_accuracy", "accuracy on held-out comparisons"),
        ("gold_agreement", "agreement with gold on held-out pairs"),
    ):
        measured = found.get(key) or {}
        pairs = f"{measured['n']} pairs" if measured.get("n") else ""
        rows.append([title, share(measured.get("value"), measured.get("low"), measured.get("high")), pairs])
    rows.append(["accuracy on training comparisons", share(found.get("train_accuracy")), ""])
    rows.append(["made by stage", plain(found.get("stage")), ""])
    return _table("Reward model", ["measure", "value", ""], rows)


def preference(report: Report) -> TextTable | None:
    """What learning from comparisons offline came to."""
    found = report.get("preference") or {}
    last, held_out = found.get("metrics") or {}, found.get("held_out") or {}
    order = found.get("heldout_accuracy") or {}
    rows = [["loss", plain(found.get("loss")), ""]]
    rows.append(
        [
            "held-out comparisons ordered as labelled",
            share(order.get("value"), order.get("low"), order.get("high")),
            f"{order['n']} pairs" if order.get("n") else "",
        ]
    )
    for key, title in (
        ("margin_mean", "implicit reward's margin"),
        ("reward_chosen", "implicit reward, better"),
        ("reward_rejected", "implicit reward, worse"),
        ("kl_implicit_k1", "log-ratio to the reference, nats"),
    ):
        rows.append([title, amount(held_out.get(key)), f"in the last step {amount(last.get(key))}"])
    return _table("Learning from comparisons", ["measure", "held out", ""], rows)


def labels(report: Report) -> TextTable | None:
    """What became of the pairs of rounds that learn from pairs."""
    rounds = [each for each in report.get("rounds") or [] if each.get("pairs") is not None]
    if not rounds:
        return None
    rows = [["pairs labelled", plain(sum(each["pairs"] for each in rounds)), ""]]
    for name, said in (
        ("pairs_left_out", "left out"),
        ("pairs_missing", "no label, never trained"),
        ("excluded", "left out by the trainer"),
    ):
        counts = Counter[str]()
        for each in rounds:
            counts.update(each.get(name) or {})
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items()))
        rows.append([said, plain(counts.total()), reasons])
    return TextTable("Pairs of the rounds", ["", "pairs", ""], rows)


def stages(report: Report) -> TextTable | None:
    """Seconds by stage."""
    rows = [
        [
            plain(each.get("name")),
            plain(each.get("kind")),
            plain(each.get("steps")),
            seconds(each.get("seconds")),
            share(each.get("overhead_fraction")),
        ]
        for each in report.get("stages") or []
    ]
    if rows:
        rows.append(["all", "", "", seconds(report.get("seconds_total")), ""])
    return (
        TextTable("Stages", ["stage", "kind", "steps", "time", "no model computing"], rows) if rows else None
    )


def throughput(report: Report) -> TextTable | None:
    """Rates of the rounds and where their time went."""
    found = report.get("throughput") or {}
    rows = [
        ["rollouts per second", amount(found.get("rollouts_per_second"), 1)],
        ["generated tokens per second", amount(found.get("generated_tokens_per_second"), 0)],
        ["time in which no model computed", share(found.get("overhead_fraction"))],
    ]
    for phase, spent in (found.get("phase_seconds") or {}).items():
        rows.append([f"phase {phase}", seconds(spent)])
    for process, size in (report.get("peak_memory_bytes") or {}).items():
        rows.append([f"peak memory of {process}", f"{size / 2**20:,.0f} MiB"])
    return _table("Throughput", ["measure", "value"], rows)


def rollbacks(report: Report) -> TextTable | None:
    """Rounds that went back to a good version."""
    rows = [
        [plain(each.get("round")), amount(each.get("kl")), plain(each.get("good")), plain(each.get("number"))]
        for each in report.get("rollbacks") or []
    ]
    head = ["round", "KL, nats per sequence", "good version", "new version"]
    return TextTable("Rollbacks", head, rows) if rows else None


def settings(report: Report) -> TextTable | None:
    """The recipe as it was run, one setting a row."""
    rows = [[path, plain(value)] for path, value in flat(report.get("settings") or {})]
    return _table("Settings", ["setting", "value"], rows)


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """{"a": {"b": 1}} gives ("a.b", 1)."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{path}.{key}" if path else str(key))
    elif value not in (None, [], {}):
        yield path, " ".join(map(str, value)) if isinstance(value, list) else value


def _table(title: str, head: list[str], rows: list[list[str]]) -> TextTable | None:
    """Without the rows of which nothing is known; None when none is left."""
    known = [row for row in rows if row[1] != UNKNOWN]
    return TextTable(title, head, known) if known else None


def all_tables(report: Report) -> list[TextTable]:
    """Every table that has something to show, in the page's order."""
    made = (before_after, outcome, reward_model, preference, labels, stages, throughput, rollbacks)
    return [table for table in (make(report) for make in made) if table is not None]


def limits(report: Report) -> list[str]:
    """What the figures do and do not show."""
    evaluation = report.get("evaluation") or {}
    said = []
    if report.get("status") not in (None, "finished"):
        said.append(f"The run is {report['status']}, not finished: the figures are of what is done so far.")
    if not evaluation.get("models"):
        said.append("No evaluation has run: nothing here says whether the model got better.")
    elif not any(each.get("gold") for each in evaluation["models"].values()):
        said.append(
            "There is no gold score: a higher proxy says that training worked, not that answers improved."
        )
    else:
        said.append(
            "The gold score is a rule, measured on held-out prompts and never trained on. It knows what its "
            "author wrote down and nothing else."
        )
    said += [
        "The reward model is a proxy: training raises it, and it can rise while what is wanted falls.",
        "Intervals cover the draw of prompts and samples of this one run; another seed trains another model.",
    ]
    if evaluation.get("sequence_kl"):
        said.append(
            "KL is estimated from the model's own samples: k1 is unbiased and noisy, k3 is never negative."
        )
    return said


def over_optimisation(report: Report) -> list[str]:
    """A sentence when gold fell from its peak for sure while the proxy rose."""
    measured = [each for each in report.get("rounds") or [] if each.get("gold") is not None]
    if len(measured) < 2:
        return []
    peak, last = max(measured, key=lambda each: each["gold"]), measured[-1]
    peak_low, last_high = peak.get("gold_low", peak["gold"]), last.get("gold_high", last["gold"])
    if None in (peak_low, last_high) or last_high >= peak_low:
        return []
    sentence = (
        f"Over-optimised: gold fell from {amount(peak['gold'])} in round {peak['round']} "
        f"to {amount(last['gold'])} in round {last['round']}"
    )
    if None not in (peak.get("proxy"), last.get("proxy")) and last["proxy"] > peak["proxy"]:
        sentence += f", while the proxy rose from {amount(peak['proxy'])} to {amount(last['proxy'])}"
    return [sentence + "."]
