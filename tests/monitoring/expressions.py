"""What a PromQL expression asks for: metric names with the labels that are matched, told by their braces."""

import re

from trueline.metrics import METRICS

SELECTOR = re.compile(r"\b(trueline_\w+|grpc_server_\w+|process_\w+|up|DCGM_\w+)(?:\{([^}]*)\})?")
# What Prometheus, its client library and NVIDIA's exporter give.
FOREIGN = {"up", "process_resident_memory_bytes", "process_cpu_seconds_total"}
SCRAPED = {"job", "instance", "le"}
PARTS = {"histogram": ("_bucket", "_count", "_sum")}


def metrics_in(expression: str) -> list[tuple[str, set[str]]]:
    """[("trueline_round", {"job", "instance"})] of an expression."""
    return [
        (name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers or "")))
        for name, matchers in SELECTOR.findall(expression)
    ]


def unknown_metrics(expression: str) -> list[str]:
    """What an expression asks for and the table does not have, names and labels."""
    series = {
        metric.name + part: metric
        for metric in METRICS.values()
        for part in ("", *PARTS.get(metric.type, ()))
    }
    faults = []
    for name, labels in metrics_in(expression):
        if name in FOREIGN or name.startswith("DCGM_"):
            continue
        if name not in series or (series[name].type == "histogram" and name == series[name].name):
            faults.append(name)
        elif name.endswith("_sum") and min(series[name].buckets, default=0.0) < 0:
            faults.append(f"{name}: a histogram with bounds below 0 has no sum")
        else:
            faults += [f"{name}{{{each}}}" for each in sorted(labels - SCRAPED - set(series[name].labels))]
    return faults
