"""Gold and proxy over the distance from where a policy started, with the fitted law and its peak."""

from collections.abc import Mapping
from typing import Any

from orchestrator.evaluation.overoptimisation import Law

GOLD, PROXY, PEAK = "#3366aa", "#cc6633", "#aa3333"
FITTED_POINTS = 100

Curve = Mapping[str, Any]  # {"points": [{"distance": 1.2, "gold": 1.4, "proxy": 0.9}], "law": {...} or None}


def distance_curves(report: Mapping[str, Any]) -> list[tuple[str, Curve]]:
    """(title, curve) of what a report has measured over the distance."""
    of_n = (report.get("evaluation") or {}).get("best_of_n")
    found = [
        ("Gold and proxy over the rounds' KL", report.get("over_optimisation")),
        (f"Best of n, n to {of_n['n']}, of {of_n['model']}" if of_n else "", of_n),
    ]
    return [(title, curve) for title, curve in found if curve]


def draw_distance(axis: Any, title: str, curve: Curve) -> None:
    """Draws one curve on a matplotlib axis; a series without numbers is left out."""
    for series, colour in (("proxy", PROXY), ("gold", GOLD)):
        points = sorted((p["distance"], p[series]) for p in curve["points"] if p.get(series) is not None)
        if points:
            axis.plot(*zip(*points, strict=True), "o", color=colour, markersize=4, label=series)
    whole = [p for p in curve["points"] if None not in (p.get("gold_low"), p.get("gold_high"))]
    if whole:
        places = [p["distance"] for p in whole]
        axis.vlines(places, [p["gold_low"] for p in whole], [p["gold_high"] for p in whole], color=GOLD, lw=1)
    if curve.get("law"):
        _draw_law(axis, curve)
    axis.set_title(title, fontsize=10, loc="left")
    axis.set_xlabel("square root of the KL in nats per sequence", fontsize=8)
    axis.set_ylabel("score", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False)


def _draw_law(axis: Any, curve: Curve) -> None:
    said = curve["law"]
    law = Law(said["form"], said["alpha"], said["beta"])
    farthest = max(point["distance"] for point in curve["points"])
    places = [farthest * step / FITTED_POINTS for step in range(FITTED_POINTS + 1)]
    fitted = [curve["gold_at_start"] + law.gain(place) for place in places]
    axis.plot(places, fitted, color=GOLD, lw=1.2, alpha=0.7, label="gold, fitted")
    if said["peak_measured"]:
        axis.axvline(said["peak_distance"], color=PEAK, lw=1, linestyle=":", label="peak of the fit")
