"""The table of metrics keeps Prometheus's conventions, and every service exports exactly its rows."""

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from services.judge.metrics import JudgeMetrics
from services.model_edge import LogprobMetrics
from services.policy.metrics import PolicyMetrics
from services.reward.metrics import RewardMetrics
from services.rpc_metrics import RpcMetrics, new_registry
from services.serving_model import LoadMetrics
from services.trainer.exports import TrainerExports
from services.trainer.metrics import measured
from services.work import Work
from tests.monitoring.promtool import needs_promtool, promtool
from trueline.metrics import METRICS, STEP_NUMBERS
from trueline.metrics.record import EVERYONE, Metric

OWN = {
    "policy": (PolicyMetrics, LogprobMetrics, LoadMetrics),
    "reference": (LogprobMetrics, LoadMetrics),
    "reward": (RewardMetrics, LoadMetrics),
    "judge": (JudgeMetrics, LoadMetrics),
    "trainer": (TrainerExports,),
}
UNBOUNDED = {"prompt", "prompt_id", "round", "step", "request_id", "sample", "id"}


def registry_of(service: str) -> CollectorRegistry:
    """What a process of the service registers before any call."""
    registry = new_registry()
    Work(registry=registry)
    RpcMetrics(registry)
    for kind in OWN[service]:
        kind(registry)
    return registry


def names_in(registry: CollectorRegistry) -> set[str]:
    """The table's names for what a registry holds."""
    suffix = {"counter": "_total", "info": "_info"}
    found = {family.name + suffix.get(family.type, "") for family in registry.collect()}
    return {name for name in found if not name.startswith(("process_", "python_"))}


@pytest.mark.parametrize("service", OWN)
def test_a_service_exports_its_rows_and_nothing_else(service: str) -> None:
    assert names_in(registry_of(service)) == {
        each.name for each in METRICS.values() if service in each.exporters
    }


def test_a_name_that_has_no_row_cannot_be_exported() -> None:
    from services.exported import exported

    with pytest.raises(KeyError, match="trueline_renamed_total"):
        exported("trueline_renamed_total", CollectorRegistry())
    with pytest.raises(KeyError, match="a_number_of_nobody"):
        measured({"a_number_of_nobody": 1.0})


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_a_row_keeps_the_conventions(metric: Metric) -> None:
    assert re.fullmatch(r"(trueline|grpc_server)(_[a-z0-9]+)+", metric.name)
    assert (metric.type == "counter") == metric.name.endswith("_total")
    assert metric.type in ("counter", "gauge", "histogram", "info")
    assert bool(metric.buckets) == (metric.type == "histogram")
    if metric.unit in ("seconds", "bytes", "tokens", "nats", "ratio") and metric.type != "counter":
        assert metric.unit in metric.name.split("_"), "a name says its unit"
    assert metric.help.endswith(".") and metric.exporters and set(metric.exporters) <= set(EVERYONE)
    assert not set(metric.labels) & UNBOUNDED
    assert all(len(each.labels) == len(metric.labels) - 2 for each in metric.numbers)


def test_no_two_rows_share_a_name_or_a_number() -> None:
    from trueline.metrics.run_rows import RUN_METRICS
    from trueline.metrics.service_rows import SERVICE_METRICS
    from trueline.metrics.step_rows import STEP_METRICS

    assert len(METRICS) == len(SERVICE_METRICS) + len(RUN_METRICS) + len(STEP_METRICS)
    assert len(STEP_NUMBERS) == sum(len(each.numbers) for each in STEP_METRICS)


def test_the_table_needs_no_library_of_metrics() -> None:
    for path in (Path(__file__).parents[2] / "protos" / "trueline").rglob("*.py"):
        assert "import prometheus" not in path.read_text(encoding="utf-8"), path


@needs_promtool
@pytest.mark.parametrize("service", OWN)
def test_promtool_finds_nothing_to_say_of_a_page(service: str) -> None:
    assert promtool("check", "metrics", page=generate_latest(registry_of(service)).decode()) == ""


@needs_promtool
def test_promtool_would_say_something_of_a_bad_name() -> None:
    assert "_total" in promtool("check", "metrics", page="# HELP x_y y\n# TYPE x_y counter\nx_y 1\n")
