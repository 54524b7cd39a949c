"""Metrics of the one table (trueline.metrics), made for a process's registry."""

from typing import Any

import prometheus_client

from trueline.metrics import METRICS


def exported(name: str, registry: prometheus_client.CollectorRegistry) -> Any:
    """The Counter, Gauge or Histogram of that name, registered. KeyError for a name that has no row."""
    return METRICS[name].made(prometheus_client, registry)
