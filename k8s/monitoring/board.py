"""What a dashboard is made of, and how it becomes the JSON that Grafana imports."""

import re
from dataclasses import dataclass
from typing import Any

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, PANEL_HEIGHT = 24, 8


@dataclass(frozen=True)
class Query:
    """A PromQL expression and what its lines are called: Query("up{...}", "{{instance}}")."""

    expression: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """A picture, and what good and bad look like in it; `needs` says what a run may lack to fill it."""

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    kind: str = "timeseries"
    needs: str = ""


@dataclass(frozen=True)
class Row:
    """Panels that answer one question."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Board:
    """One dashboard. `own` is the metric whose jobs and instances its variables offer."""

    uid: str
    title: str
    description: str
    own: str
    rows: tuple[Row, ...]

    @property
    def panels(self) -> list[Panel]:
        """All of them, in order."""
        return [panel for row in self.rows for panel in row.panels]


def of_run(name: str, *matchers: str) -> str:
    """A metric of the orchestrator, of the chosen runs: of_run("trueline_round")."""
    return _selected(name, 'run=~"$run"', *matchers)


def of_service(name: str, *matchers: str) -> str:
    """A metric of the chosen replicas."""
    return _selected(name, *matchers)


def rate(name: str, *matchers: str) -> str:
    """How fast a counter of the services grows, per second."""
    return f"rate({of_service(name, *matchers)}[$__rate_interval])"


def _selected(name: str, *matchers: str) -> str:
    matched = ", ".join(('job=~"$job"', 'instance=~"$instance"', *matchers))
    return f"{name}{{{matched}}}"


def with_values(expression: str, interval: str = "1m") -> str:
    """The expression as Grafana sends it when everything is chosen."""
    plain = expression.replace("$__rate_interval", interval).replace("$__range", interval)
    return re.sub(r"\$\w+", ".+", plain)


def as_json(board: Board) -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    return {
        "uid": board.uid,
        "title": board.title,
        "description": board.description,
        "tags": ["trueline"],
        "editable": False,
        "graphTooltip": 1,  # one crosshair for all panels: what moved together is seen together
        "refresh": "10s",
        "schemaVersion": 39,
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": variables(board)},
        "panels": list(placed(board)),
    }


def variables(board: Board) -> list[dict[str, Any]]:
    """Data source, job, instance and run."""
    datasource = {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
        "hide": 0,
        "refresh": 1,
    }
    choices = {
        "job": f"label_values({board.own}, job)",
        "instance": f'label_values({board.own}{{job=~"$job"}}, instance)',
        "run": 'label_values(trueline_run_info{job=~".+", instance=~".+"}, run)',
    }
    used = {
        name
        for panel in board.panels
        for query in panel.queries
        for name in choices
        if f"${name}" in query.expression
    }
    return [datasource, *(_choice(name, query) for name, query in choices.items() if name in used)]


def _choice(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": f"{name}s"},
        "refresh": 2,
        "includeAll": True,
        "allValue": ".+",
        "multi": True,
        "sort": 1,
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


def placed(board: Board) -> Any:
    """Rows and panels with their places: three panels side by side."""
    number, top, across = 0, 0, 3
    for row in board.rows:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "panels": [],
            "gridPos": {"h": 1, "w": WIDTH, "x": 0, "y": top},
        }
        top += 1
        for place, panel in enumerate(row.panels):
            number += 1
            position = {
                "h": PANEL_HEIGHT,
                "w": WIDTH // across,
                "x": place % across * WIDTH // across,
                "y": top + place // across * PANEL_HEIGHT,
            }
            yield panel_json(number, panel, position)
        top += -(-len(row.panels) // across) * PANEL_HEIGHT


def panel_json(number: int, panel: Panel, position: dict[str, int]) -> dict[str, Any]:
    """One panel."""
    needs = f"\n\nEmpty without {panel.needs}." if panel.needs else ""
    legend = {"displayMode": "list", "placement": "bottom", "showLegend": True}
    options: dict[str, Any] = {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
    if panel.kind == "stat":
        options = {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "textMode": "value_and_name",
        }
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description + needs,
        "datasource": DATASOURCE,
        "gridPos": position,
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "custom": {"showPoints": "auto"} if panel.kind == "timeseries" else {},
            },
            "overrides": [],
        },
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": DATASOURCE,
                "expr": query.expression,
                "legendFormat": query.legend,
                "range": panel.kind != "stat",
                "instant": panel.kind == "stat",
            }
            for index, query in enumerate(panel.queries)
        ],
    }
