"""Panels of the numbers that the orchestrator exports."""

from k8s.monitoring.board import Panel, Query, of_run


def numbers(name: str, legend: str, *matchers: str) -> Query:
    """The numbers of each stage's newest round."""
    return Query(of_run(name, *matchers), f"{{{{run}}}} {{{{stage}}}} {legend}".strip())


def panel(title: str, unit: str, description: str, *queries: Query, **more: str) -> Panel:
    """A panel; the description comes behind the unit, before the queries."""
    return Panel(title, description, unit, queries, **more)
