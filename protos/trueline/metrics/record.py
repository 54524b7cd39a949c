"""One row of the table of metrics."""

from dataclasses import dataclass
from typing import Any

SERVICES = ("policy", "reference", "reward", "judge", "trainer")
EVERYONE = (*SERVICES, "orchestrator")


@dataclass(frozen=True)
class Number:
    """A number of a step that a gauge shows: Number("kl_reference_k1", "...", ("k1",)).

    `labels` are the values of those of the metric's labels that tell its numbers apart.
    """

    name: str
    help: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Metric:
    """A metric as Prometheus sees it: full name, type, unit, labels, meaning, and who exports it."""

    name: str
    type: str  # counter, gauge, histogram or info
    unit: str
    exporters: tuple[str, ...]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    numbers: tuple[Number, ...] = ()

    def made(self, library: Any, registry: Any) -> Any:
        """The metric of `library` (prometheus_client, which this package does without), registered."""
        more = {"buckets": self.buckets} if self.buckets else {}
        kind = getattr(library, self.type.capitalize())
        # The library adds _total to a counter's name and _info to an info's.
        name = self.name.removesuffix("_info") if self.type == "info" else self.name
        return kind(name, self.help, self.labels, registry=registry, **more)
