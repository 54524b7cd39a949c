"""The run on /metrics: where it stands, and the numbers of each stage's newest committed round.

    with serving(MetricsDoor("127.0.0.1:9464")) as page:
        with watched(ledger, recipe, progress, page) as (progress, metrics): ...

All numbers come from the ledger, so that a chart of them is a chart of the ledger. A scrape gets one moment:
what a round changed is replaced whole.
"""

import json
import math
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from orchestrator.judge_audit import figures
from orchestrator.ledger import Ledger, Round
from orchestrator.mending import Mending
from orchestrator.metrics_door import MetricsPage
from orchestrator.progress import Progress
from orchestrator.recipe import Recipe
from orchestrator.timekeeping import Timekeeper
from orchestrator.trend import Measured, measured, trend_of
from orchestrator.whole_files import replaced
from trueline.metrics import METRICS, STEP_NUMBERS

TARGETS = ".targets"
ROUNDS_OF_MEDIAN = 20
CAUSES = 20  # of excluded rows; a label may not grow without bound, whatever a scorer says
Labels = tuple[str, ...]
Samples = list[tuple[str, Labels, float]]  # (name, values of its labels behind the run, value)

METRIC_OF = {number.name: each.name for each in METRICS.values() for number in each.numbers}


@dataclass
class StageHistory:
    """What a stage's rounds have come to so far."""

    rounds: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    excluded: Counter[str] = field(default_factory=Counter)
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=ROUNDS_OF_MEDIAN))
    measured: list[Measured] = field(default_factory=list)
    newest: Samples = field(default_factory=list)

    def add(
        self, stage: str, row: Round, excluded: Mapping[str, int], ended: Mapping[str, Any] | None = None
    ) -> None:
        """Counts a round that is over; `ended` is its phase `rolled_back`, where the stage ended at it."""
        if row.seconds is not None:
            self.statuses["committed"] += 1  # and stays, where it is rolled back later: no counter falls
        if row.status == "rolled_back":
            self.statuses["rolled_back"] += 1
        for cause, count in excluded.items():
            known = cause in self.excluded or len(self.excluded) < CAUSES
            self.excluded[cause if known else "other"] += count
        if row.seconds:
            self.seconds.append(row.seconds)
        found = measured(row.number, row.metrics)
        if found is not None:
            self.measured.append(found)
        if row.status == "committed":
            self.rounds = row.number
            new = round_samples(stage, row, sum(excluded.values()))
            self.newest = [*_kept(self.newest, {name for name, _, _ in new}), *new]
        elif ended is not None and ended["kl"] is not None:
            self._ended_at(stage, ended["kl"])

    def _ended_at(self, stage: str, kl: float) -> None:
        """The KL that ended the stage stands in place of the newest round's; k1 alone is known of it."""
        others = [each for each in self.newest if each[0] != "trueline_kl_reference_nats"]
        self.newest = [*others, ("trueline_kl_reference_nats", (stage, "k1"), float(kl))]

    def samples(self, stage: str) -> Samples:
        """All that is told of the stage."""
        found: Samples = [("trueline_round", (stage,), self.rounds)]
        found += [("trueline_rounds_total", (stage, word), n) for word, n in self.statuses.items()]
        found += [("trueline_excluded_samples_total", (stage, word), n) for word, n in self.excluded.items()]
        if self.seconds:
            found.append(("trueline_round_seconds_median", (stage,), median(self.seconds)))
        trend = trend_of(self.measured)
        slopes = (
            {}
            if trend is None
            else {
                "trueline_gold_slope_per_round": trend.gold_slope,
                "trueline_gold_slope_error_per_round": trend.gold_slope_error,
                "trueline_proxy_slope_per_round": trend.proxy_slope,
                "trueline_gold_below_peak_ratio": trend.below_peak,
                "trueline_proxy_above_peak": trend.proxy_above_peak,
            }
        )
        found += [(name, (stage,), value) for name, value in slopes.items() if value is not None]
        return found + self.newest


def _kept(before: Samples, new: set[str]) -> Samples:
    """Gold and proxy are measured every few rounds and stay until they are measured again."""
    measured_rarely = {"trueline_gold_score", "trueline_proxy_score"} - new
    return [each for each in before if each[0] in measured_rarely]


def round_samples(stage: str, row: Round, excluded: int) -> Samples:
    """The numbers of one round's ledger row."""
    metrics = {**row.metrics, "excluded": float(excluded)}
    found: Samples = []
    for name, value in metrics.items():
        if name in STEP_NUMBERS and isinstance(value, int | float) and math.isfinite(value):
            found.append((METRIC_OF[name], (stage, *STEP_NUMBERS[name].labels), float(value)))
    if row.seconds:
        found.append(("trueline_round_seconds", (stage,), row.seconds))
        if "overhead_seconds" in metrics:
            idle = float(metrics["overhead_seconds"]) / row.seconds
            found.append(("trueline_round_idle_ratio", (stage,), idle))
    for phase, seconds in metrics.get("phase_seconds", {}).items():
        if "-" not in phase:  # chunks of their own are no phases
            found.append(("trueline_phase_seconds", (stage, phase), seconds))
    return found


class RunMetrics(Collector):
    """Collects a run's samples. The scrape's thread reads what the run's replaces whole."""

    def __init__(self, ledger: Ledger, recipe: Recipe) -> None:
        self._ledger, self._recipe = ledger, recipe
        self._histories: dict[str, StageHistory] = {}
        self._judged: dict[str, Samples] = {}
        self._shown: dict[str, Samples] = {}
        self._stage: Labels = ()
        self._time: Timekeeper | None = None
        self._mending: Mending | None = None
        for row in ledger.all_stages():
            self._read(row["stage"])

    def follow(self, clock: Timekeeper, mending: Mending) -> None:
        """Shows when the run last got on, and how often it had to try again."""
        self._time, self._mending = clock, mending

    def stage_started(self, stage: str, kind: str) -> None:
        """This one runs now."""
        self._stage = (stage, kind)

    def stage_finished(self, stage: str) -> None:
        """Reads the stage again: rounds may have been rolled back, and its result is there."""
        self._read(stage)

    def round_done(self, stage: str, number: int) -> None:
        """Reads a round that has just been committed."""
        history = self._histories.setdefault(stage, StageHistory())
        row = self._ledger.round(stage, number)
        if row is None or row.status == "open" or row.number <= history.rounds:
            return
        history.add(stage, row, self._excluded(self._ledger.phase(stage, number, "trained")))
        self._judge(stage, number)
        self._show(stage)

    def collect(self) -> Iterator[Any]:
        """One family for each name; the names and labels are the table's."""
        families: dict[str, Any] = {}
        for name, labels, value in self._samples():
            if name not in families:
                families[name] = _family(name)
            families[name].add_metric((self._ledger.run, *labels), value)
        yield from families.values()

    def _samples(self) -> Samples:
        found: Samples = [("trueline_run_info", (self._recipe.name,), 1.0)]
        if self._stage:
            found.append(("trueline_stage_info", self._stage, 1.0))
        if self._time is not None:
            found.append(("trueline_last_progress_timestamp_seconds", (), self._time.last_progress))
        retries = list(self._mending.retries.items()) if self._mending else []
        found += [("trueline_retries_total", (peer,), count) for peer, count in retries]
        for samples in list(self._shown.values()):
            found += samples
        return found

    def _read(self, stage: str) -> None:
        history = StageHistory()
        trained = self._ledger.all_phases(stage, "trained")
        ended = self._ledger.all_phases(stage, "rolled_back")
        for row in self._ledger.all_rounds(stage):
            if row.status != "open":
                history.add(stage, row, self._excluded(trained.get(row.number)), ended.get(row.number))
        self._histories[stage] = history
        self._judge(stage, max(1, history.rounds))  # a stage without rounds labels in its first
        self._show(stage)

    def _judge(self, stage: str, number: int) -> None:
        """What the round's verdicts are worth; those of the round before stay where it has none."""
        if "judge" not in self._recipe.needed_services:
            return
        found = judge_samples(stage, self._ledger.labels_of(stage, number))
        if found:
            self._judged[stage] = found

    def _show(self, stage: str) -> None:
        row = self._ledger.stage(stage)
        if row is None:
            return
        settings = self._recipe.stages.get(stage)
        seconds = ("trueline_stage_seconds_total", (stage,), row["seconds"])
        history = self._histories[stage].samples(stage)
        judged = self._judged.get(stage, [])
        self._shown[stage] = [
            seconds, *plan_samples(stage, settings), *history, *judged, *result_samples(stage, row)
        ]  # fmt: skip

    @staticmethod
    def _excluded(trained: Mapping[str, Any] | None) -> Mapping[str, int]:
        return trained["excluded"] if trained else {}


def plan_samples(stage: str, settings: Any) -> Samples:
    """What the recipe says of a stage: how many rounds, and its KL budgets."""
    found: Samples = []
    if rounds := getattr(settings, "rounds", 0):
        found.append(("trueline_rounds_planned", (stage,), rounds))
    for limit in ("soft", "hard"):
        name = f"kl_budget_{limit}"
        if budget := getattr(settings, name, getattr(getattr(settings, "algorithm", None), name, 0.0)):
            found.append(("trueline_kl_budget_nats", (stage, limit), budget))
    return found


def judge_samples(stage: str, labels: Sequence[Mapping[str, Any]]) -> Samples:
    """The audit of one round's verdicts, as far as numbers tell it; nothing where no judge gave one."""
    verdicts = [dict(row) for row in labels if row["source"] == "judge" and row["verdict"] is not None]
    if not verdicts:
        return []
    audited, found = figures(verdicts, [dict(row) for row in labels]), Samples()
    for other in ("gold", "people"):
        compared = audited[other]
        told = {
            "trueline_judge_agreement_ratio": compared["agreement"],
            "trueline_judge_kappa": compared["kappa"]["mean"],
            "trueline_judge_calibration_error": compared["calibration_error"],
        }
        found += [(name, (stage, other), value) for name, value in told.items() if value is not None]
    if audited["length_correlation"] is not None:
        found.append(("trueline_judge_length_correlation", (stage,), audited["length_correlation"]))
    return found


def result_samples(stage: str, row: Mapping[str, Any]) -> Samples:
    """What a finished evaluation or reward model came to."""
    result, found = row["result"] or {}, Samples()
    for model, scores in (result.get("models") or {}).items():
        for role in ("gold", "proxy"):
            if role in scores:
                found.append(("trueline_evaluation_score", (stage, model, role), scores[role]["mean"]))
    if (rate := (result.get("win_rate") or {}).get("rate")) is not None:
        found.append(("trueline_evaluation_win_rate_ratio", (stage,), rate))
    for estimator, figure in (result.get("sequence_kl") or {}).items():
        found.append(("trueline_evaluation_kl_nats", (stage, estimator), figure["mean"]))
    if row["kind"] == "reward" and "accuracy" in (result.get("held_out") or {}):
        found.append(("trueline_heldout_accuracy_ratio", (stage,), result["held_out"]["accuracy"]))
    return found


def _family(name: str) -> Any:
    metric = METRICS[name]
    kind = CounterMetricFamily if metric.type == "counter" else GaugeMetricFamily
    return kind(name.removesuffix("_total"), metric.help, labels=metric.labels)


class WatchedProgress:
    """Passes a run's progress on, and has the metrics read what it tells of."""

    def __init__(self, progress: Progress, metrics: RunMetrics) -> None:
        self._progress, self._metrics = progress, metrics

    def stage_started(self, name: str, kind: str, index: int, count: int, total_steps: int) -> None:
        """See Progress."""
        self._metrics.stage_started(name, kind)
        self._progress.stage_started(name, kind, index, count, total_steps)

    def step_done(self, name: str, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """See Progress."""
        self._metrics.round_done(name, done)
        self._progress.step_done(name, done, total, metrics)

    def note(self, text: str) -> None:
        """See Progress."""
        self._progress.note(text)

    def stage_finished(self, name: str, seconds: float) -> None:
        """See Progress."""
        self._metrics.stage_finished(name)
        self._progress.stage_finished(name, seconds)

    def close(self) -> None:
        """See Progress."""
        self._progress.close()


@contextmanager
def targets(directory: Path, page: MetricsPage | None, services: Mapping[str, str]) -> Iterator[None]:
    """Keeps runs/.targets/RUN.json: what a Prometheus on this machine is to scrape (file_sd).

    {"policy-0": "127.0.0.1:40123"} gives a target of the job policy whose instance is policy-0, in a
    namespace of the run's name: another run on this machine has a policy-0 too. Nothing is to be scraped once
    the block is left, or a run that is over would look like services that are down.
    """
    if page is None:
        yield
        return
    places = {"orchestrator-0": page.address, **services}
    found = [
        {
            "targets": [address],
            "labels": {"namespace": directory.name, "job": name.rpartition("-")[0], "instance": name},
        }
        for name, address in places.items()
        if address
    ]
    path = directory.parent / TARGETS / f"{directory.name}.json"
    write_targets(path, found)
    try:
        yield
    finally:
        write_targets(path, [])


def write_targets(path: Path, found: list[dict[str, Any]]) -> None:
    """Replaces the file."""
    path.parent.mkdir(exist_ok=True)
    with replaced(path) as file:
        file.write((json.dumps(found, indent=2) + "\n").encode())


@contextmanager
def watched(
    ledger: Ledger, recipe: Recipe, progress: Progress, page: MetricsPage | None
) -> Iterator[tuple[Progress, RunMetrics | None]]:
    """The run's metrics on a page, and the progress that keeps them up to date; without one, nothing."""
    if page is None:
        yield progress, None
        return
    metrics = RunMetrics(ledger, recipe)
    with page.showing(metrics):
        progress.note(f"metrics: {page.url}")
        yield WatchedProgress(progress, metrics), metrics
