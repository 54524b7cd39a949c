"""The run's own /metrics: the ledger's numbers, after a resume too, each scrape of one moment."""

import asyncio
import json
import math
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from orchestrator.metrics import CAUSES, RunMetrics, WatchedProgress, targets, watched
from orchestrator.metrics_door import MetricsDoor, MetricsPage, serving
from orchestrator.processes import LaunchError
from orchestrator.progress import PlainProgress
from orchestrator.trend import Measured, measured, trend_of
from tests.monitoring.promtool import needs_promtool, promtool
from tests.orchestrator.written_run import RunWriter
from trueline.metrics import METRICS

NUMBERS = {
    "kl_reference_k1": 1.25, "score_mean": float("nan"), "gold": 2.0, "gold_low": 1.9, "gold_high": 2.1,
    "proxy": 0.5, "overhead_seconds": 0.5, "phase_seconds": {"sampled": 0.7, "chunk-0": 0.1}, "resumed": 0,
}  # fmt: skip


@pytest.fixture
def writer(tmp_path: Path) -> RunWriter:
    return RunWriter(tmp_path).write()


def found(metrics: RunMetrics) -> dict[str, dict[tuple[str, ...], float]]:
    """{"trueline_round": {("run", "ppo"): 4.0}}: label values in the table's order."""
    return {
        sample.name: {
            tuple(each.labels[label] for label in METRICS[sample.name].labels): each.value
            for each in family.samples
        }
        for family in metrics.collect()
        for sample in family.samples
    }


def test_a_resumed_run_shows_what_its_ledger_holds(writer: RunWriter) -> None:
    shown = found(RunMetrics(writer.ledger, writer.recipe))
    assert shown["trueline_run_info"] == {("run", "written"): 1.0}
    assert shown["trueline_round"] == {("run", "sft"): 2.0, ("run", "ppo"): 4.0}
    assert shown["trueline_rounds_total"][("run", "ppo", "committed")] == 4.0
    assert shown["trueline_excluded_samples_total"] == {("run", "ppo", "too_long"): 1.0}
    assert shown["trueline_loss"] == {("run", "ppo"): 0.5}
    assert shown["trueline_rounds_planned"] == {("run", "ppo"): 4.0}
    assert set(shown) <= {each.name for each in METRICS.values() if "orchestrator" in each.exporters}


def test_a_round_shows_as_soon_as_it_is_told_and_a_number_that_is_none_never(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path)
    writer.supervised()
    writer.ledger.begin_stage("ppo", "ppo", 2)
    metrics = RunMetrics(writer.ledger, writer.recipe)
    progress = WatchedProgress(PlainProgress((tmp_path / "lines").open("w")), metrics)
    progress.stage_started("ppo", "ppo", 2, 3, 4)
    writer.ledger.begin_round("ppo", 1, 4)
    writer.ledger.commit_round("ppo", 1, NUMBERS, 2.0)
    assert "trueline_kl_reference_nats" not in found(metrics)
    progress.step_done("ppo", 1, 4, {})
    shown = found(metrics)
    assert shown["trueline_stage_info"] == {("run", "ppo", "ppo"): 1.0}
    assert shown["trueline_kl_reference_nats"] == {("run", "ppo", "k1"): 1.25}
    assert "trueline_reward_mean" not in shown, "NaN is no number"
    assert shown["trueline_gold_score"][("run", "ppo", "high")] == 2.1
    assert shown["trueline_round_idle_ratio"] == {("run", "ppo"): 0.25}
    assert shown["trueline_phase_seconds"] == {("run", "ppo", "sampled"): 0.7}
    writer.ledger.begin_round("ppo", 2, 4)
    writer.ledger.commit_round("ppo", 2, {"kl_reference_k1": 2.5}, 1.0)
    for _ in range(2):  # told twice, counted once
        progress.step_done("ppo", 2, 4, {})
    shown = found(metrics)
    assert shown["trueline_kl_reference_nats"] == {("run", "ppo", "k1"): 2.5}
    assert shown["trueline_gold_score"][("run", "ppo", "mean")] == 2.0, (
        "gold stays until it is measured again"
    )
    assert shown["trueline_rounds_total"][("run", "ppo", "committed")] == 2.0
    writer.ledger.begin_round("ppo", 3, 4)
    writer.ledger.commit_round("ppo", 3, {**NUMBERS, "gold": 2.05}, 1.0)
    progress.step_done("ppo", 3, 4, {})
    golds = [
        (name, labels, value) for name, labels, value in metrics._samples() if name == "trueline_gold_score"
    ]
    assert [value for _, labels, value in golds if labels[-1] == "mean"] == [2.05], "the old one is gone"
    shown = found(metrics)
    assert shown == found(RunMetrics(writer.ledger, writer.recipe)) | {
        "trueline_stage_info": shown["trueline_stage_info"]
    }


def test_a_stage_that_the_budget_ended_shows_the_kl_that_ended_it(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path)
    writer.supervised()
    ledger = writer.ledger
    ledger.begin_stage("ppo", "ppo", 2)
    metrics = RunMetrics(ledger, writer.recipe)
    for number, kl in enumerate((1.0, 3.0, 6.0), start=1):
        ledger.begin_round("ppo", number, 4)
        numbers = {"kl_reference_k1": kl, "kl_reference_k3": kl, "loss": number / 10}
        ledger.commit_round("ppo", number, numbers, 1.0)
        metrics.round_done("ppo", number)
    before = found(metrics)
    ledger.begin_round("ppo", 4, 4)
    ledger.finish_phase("ppo", 4, "rolled_back", {"good": 2, "number": 4, "kl": 12.0})
    ledger.roll_back_rounds("ppo", after=2)
    ledger.finish_stage("ppo", {"rounds": 4})
    metrics.stage_finished("ppo")
    shown = found(metrics)
    assert shown["trueline_kl_reference_nats"] == {("run", "ppo", "k1"): 12.0}, (
        "no k3 of another batch beside"
    )
    assert shown["trueline_round"][("run", "ppo")] == 2.0 and shown["trueline_loss"] == {("run", "ppo"): 0.2}
    counts = "trueline_rounds_total"
    assert all(shown[counts][labels] >= count for labels, count in before[counts].items()), "no counter falls"
    assert shown[counts][("run", "ppo", "rolled_back")] == 2.0
    assert shown == found(RunMetrics(ledger, writer.recipe)), "after a resume too"


def test_causes_of_exclusion_cannot_grow_without_bound(writer: RunWriter) -> None:
    from orchestrator.metrics import StageHistory

    history, row = StageHistory(), writer.ledger.all_rounds("ppo")[0]
    history.add("ppo", row, {f"cause {number}": 1 for number in range(3 * CAUSES)})
    assert len(history.excluded) == CAUSES + 1 and history.excluded["other"] == 2 * CAUSES


def test_a_trend_is_that_of_least_squares_and_knows_the_peak() -> None:
    rounds = [Measured(number, gold, 0.1, float(number)) for number, gold in enumerate((0, 3, 2, 1, 0, -1))]
    trend = trend_of(rounds)
    assert trend is not None
    assert trend.gold_slope == pytest.approx(-1.0) and trend.proxy_slope == pytest.approx(1.0)
    assert trend.gold_slope_error == pytest.approx(0.1 / math.sqrt(10))  # sum of squared distances is 10
    assert trend.below_peak == pytest.approx(4 / (0.1 * math.sqrt(2))) and trend.proxy_above_peak == 4.0
    assert trend_of(rounds[:2]) is None
    assert measured(3, NUMBERS) == Measured(3, 2.0, pytest.approx(0.1 / 1.959964), 0.5)
    assert measured(3, {**NUMBERS, "gold": None}) is None and measured(3, {}) is None


@pytest.fixture
def page(writer: RunWriter) -> Iterator[str]:
    with serving(MetricsDoor("127.0.0.1:0")) as served:
        assert served is not None
        with served.showing(RunMetrics(writer.ledger, writer.recipe)):
            yield urllib.request.urlopen(served.url, timeout=10).read().decode()
        left = urllib.request.urlopen(served.url, timeout=10).read().decode()
        assert "trueline_round" not in left and "trueline_build_info" in left, "a standby shows itself"


@needs_promtool
def test_promtool_finds_nothing_to_say_of_the_page(page: str) -> None:
    assert 'trueline_round{run="run",stage="ppo"} 4.0' in page and "trueline_build_info{" in page
    assert promtool("check", "metrics", page=page) == ""


def test_without_an_address_nothing_is_served(writer: RunWriter, tmp_path: Path) -> None:
    progress = PlainProgress((tmp_path / "lines").open("w"))
    with watched(writer.ledger, writer.recipe, progress, None) as (told, metrics):
        assert told is progress and metrics is None
    with serving(MetricsDoor("127.0.0.1:0")) as page:
        assert page is not None and not page.address.endswith(":0")
        with watched(writer.ledger, writer.recipe, progress, page) as (told, metrics):
            assert isinstance(told, WatchedProgress) and metrics is not None


def test_targets_name_each_process_by_service_and_place_until_the_run_is_over(tmp_path: Path) -> None:
    page = MetricsPage(CollectorRegistry(), "", "127.0.0.1:1")
    with targets(tmp_path / "run", page, {"policy-1": "127.0.0.1:2", "reward-0": ""}):
        assert json.loads((tmp_path / ".targets" / "run.json").read_text()) == [
            {
                "targets": ["127.0.0.1:1"],
                "labels": {"namespace": "run", "job": "orchestrator", "instance": "orchestrator-0"},
            },
            {
                "targets": ["127.0.0.1:2"],
                "labels": {"namespace": "run", "job": "policy", "instance": "policy-1"},
            },
        ]
    assert json.loads((tmp_path / ".targets" / "run.json").read_text()) == []


@pytest.mark.parametrize("address", ["0.0.0.0:0", "127.0.0.1", ":9464"])
def test_a_door_that_nobody_keeps_is_not_opened(address: str) -> None:
    with pytest.raises(LaunchError, match="--metrics-address"):
        with serving(MetricsDoor(address)):
            pass


def test_with_tokens_a_reader_without_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("")
    door = MetricsDoor("127.0.0.1:0", tokens=tmp_path / "tokens")
    with serving(door) as page:
        assert page is not None
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(page.url, timeout=10)


async def test_a_page_lingers_for_the_last_scrape_unless_it_is_told_to_stop() -> None:
    async def seconds(linger: float, stopping: asyncio.Event) -> float:
        began = time.monotonic()
        await MetricsPage(CollectorRegistry(), "", "127.0.0.1:1", linger).lingering(stopping)
        return time.monotonic() - began

    stopping = asyncio.Event()
    assert 0.2 <= await seconds(0.2, stopping) < 5
    stopping.set()
    assert await seconds(60.0, stopping) < 5
