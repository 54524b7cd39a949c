"""The run over its rounds, as one picture. A new curve is one row of PANELS."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.evaluation.picture import distance_curves, draw_distance

Rounds = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Curve:
    """One line: a round's metric, its name, and the metrics of its interval where there is one."""

    metric: str
    title: str
    colour: str
    low: str = ""
    high: str = ""


@dataclass(frozen=True)
class Panel:
    """Curves that share an axis."""

    title: str
    unit: str
    curves: tuple[Curve, ...]


BLUE, ORANGE, GREEN, PURPLE = "#3366aa", "#cc6633", "#338855", "#775599"

PANELS = (
    Panel(
        "Reward",
        "score",
        (
            Curve("proxy", "proxy, held-out", ORANGE),
            Curve("score_mean", "proxy, training", "#e0b090"),
            Curve("gold", "gold, held-out", BLUE, "gold_low", "gold_high"),
        ),
    ),
    Panel(
        "KL to the reference",
        "nats per sequence",
        (Curve("kl_reference_k1", "k1", BLUE), Curve("kl_reference_k3", "k3", ORANGE)),
    ),
    Panel(
        "Implicit reward of the round's pairs",
        "beta x log-ratio",
        (
            Curve("reward_chosen", "better", BLUE),
            Curve("reward_rejected", "worse", ORANGE),
            Curve("margin_mean", "margin", GREEN),
        ),
    ),
    Panel("Order of the round's pairs", "share", (Curve("accuracy", "as labelled", GREEN),)),
    Panel(
        "Log-prob of the round's pairs",
        "nats per response",
        (Curve("logprob_chosen", "better", BLUE), Curve("logprob_rejected", "worse", ORANGE)),
    ),
    Panel("Entropy", "nats per token", (Curve("entropy", "entropy", GREEN),)),
    Panel("Response length", "tokens", (Curve("response_tokens_mean", "mean", PURPLE),)),
    Panel(
        "Updates",
        "share",
        (
            Curve("clip_fraction", "clip fraction", ORANGE),
            Curve("explained_variance", "explained variance", GREEN),
        ),
    ),
    Panel("Time", "seconds per round", (Curve("seconds", "seconds", BLUE),)),
)


def points(rounds: Rounds, metric: str) -> tuple[list[float], list[float]]:
    """([1, 6], [0.2, 0.9]): the rounds that have the metric, and its values."""
    found = [(each["round"], each[metric]) for each in rounds if isinstance(each.get(metric), int | float)]
    return [x for x, _ in found], [y for _, y in found]


def budgets(settings: Mapping[str, Any]) -> dict[str, float]:
    """{"soft budget": 8.0, "hard budget": 15.0} of the first stage that has them."""
    for stage in (settings.get("stages") or {}).values():
        holds = {**stage, **(stage.get("algorithm") or {})}  # PPO's trainer keeps it, a DPO stage itself
        found = {f"{kind} budget": holds.get(f"kl_budget_{kind}") for kind in ("soft", "hard")}
        if any(found.values()):
            return {title: value for title, value in found.items() if value}
    return {}


def draw_curves(report: Mapping[str, Any], path: Path) -> bool:
    """Writes the picture; False, and no file, when no round has anything to draw."""
    rounds: Rounds = report.get("rounds") or []
    panels = [panel for panel in PANELS if any(points(rounds, curve.metric)[0] for curve in panel.curves)]
    over_distance = distance_curves(report)
    if not panels and not over_distance:
        return False
    import matplotlib  # takes a second to load, and only reports need it

    matplotlib.use("Agg")
    from matplotlib import pyplot

    count = len(panels) + len(over_distance)
    rows = -(-count // 2)
    figure, axes = pyplot.subplots(rows, 2, figsize=(10, 2.9 * rows), squeeze=False, layout="constrained")
    try:
        for axis, panel in zip(axes.flat, panels, strict=False):
            _draw_panel(axis, panel, rounds, report)
        for axis, (title, curve) in zip(axes.flat[len(panels) :], over_distance, strict=False):
            draw_distance(axis, title, curve)
        for axis in axes.flat[count:]:
            axis.set_visible(False)
        figure.savefig(path, dpi=110, format="png", metadata={"Software": None})
    finally:
        pyplot.close(figure)
    return True


def _draw_panel(axis: Any, panel: Panel, rounds: Rounds, report: Mapping[str, Any]) -> None:
    for curve in panel.curves:
        numbers, values = points(rounds, curve.metric)
        if numbers:
            marker = "o" if len(numbers) <= 30 else ""
            axis.plot(
                numbers, values, color=curve.colour, label=curve.title, marker=marker, markersize=3, lw=1.5
            )
            _draw_band(axis, curve, rounds)
    if panel.title.startswith("KL"):
        _draw_budgets(axis, budgets(report.get("settings") or {}))
    for each in report.get("rollbacks") or []:
        axis.axvline(each["round"], color="#aa3333", lw=1, linestyle=":")
    axis.set_title(panel.title, fontsize=10, loc="left")
    axis.set_xlabel("round", fontsize=8)
    axis.set_ylabel(panel.unit, fontsize=8)
    axis.tick_params(labelsize=8)
    if panel.title == "Time":
        axis.set_ylim(bottom=0)
    if panel.title == "Updates":  # a new critic may explain less than nothing, and much less
        axis.set_ylim(bottom=max(axis.get_ylim()[0], -1))
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    if len(axis.get_legend_handles_labels()[1]) > 1:
        axis.legend(fontsize=8, frameon=False)


def _draw_band(axis: Any, curve: Curve, rounds: Rounds) -> None:
    whole = [each for each in rounds if curve.low and None not in (each.get(curve.low), each.get(curve.high))]
    if whole:
        numbers = [each["round"] for each in whole]
        low, high = [each[curve.low] for each in whole], [each[curve.high] for each in whole]
        axis.fill_between(numbers, low, high, color=curve.colour, alpha=0.15, lw=0)


def _draw_budgets(axis: Any, limits: Mapping[str, float]) -> None:
    """Only those that the curve comes near: a far limit would press the curve flat."""
    top = axis.get_ylim()[1]
    for title, value in limits.items():
        if value <= 2 * top:
            axis.axhline(
                value, color="#aa3333", lw=1, linestyle="--" if title.startswith("soft") else "-", label=title
            )
