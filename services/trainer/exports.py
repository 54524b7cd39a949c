"""What the trainer shows of its own on /metrics: counters of what its steps did, and its publishes."""

from __future__ import annotations

import time
from typing import Any

from prometheus_client import CollectorRegistry

from services.exported import exported
from services.trainer.records import CheckpointPlace, StepReport
from services.weights import PublishedVersion

STEPS = ("SftStep", "RewardModelStep", "PpoStep", "PreferenceStep")


class TrainerExports:
    """Counts commands by what came of them. The numbers of a step itself are the orchestrator's to show."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def trainer(name: str) -> Any:
            return exported(f"trueline_trainer_{name}", registry)

        self._step, self._steps = trainer("step"), trainer("steps_total")
        self._rows, self._tokens = trainer("rows_total"), trainer("tokens_total")
        self._updates, self._excluded = trainer("updates_total"), trainer("excluded_rows_total")
        self._seconds, self._last = trainer("step_seconds"), trainer("last_step_timestamp_seconds")
        self._version = exported("trueline_weights_published_version", registry)
        self._publish_seconds = exported("trueline_weights_publish_seconds", registry)
        self._published_bytes = exported("trueline_weights_published_bytes_total", registry)
        self._checkpoint_seconds = exported("trueline_checkpoint_seconds", registry)
        for method in STEPS:  # exported as 0 before the first: the increase of a series born at 1 is 0
            self._steps.labels(method, "failed")

    def done(self, method: str, result: Any, seconds: float) -> None:
        """A command has ended well."""
        if isinstance(result, StepReport):
            self._step_done(method, result, seconds)
        elif isinstance(result, PublishedVersion):
            model = result.version.model
            self._version.labels(model).set(result.version.number)
            self._publish_seconds.labels(model).observe(result.seconds)
            self._published_bytes.labels(model).inc(result.bytes)
        elif isinstance(result, CheckpointPlace):
            self._checkpoint_seconds.observe(seconds)

    def failed(self, method: str) -> None:
        """A command has raised; a step that did is undone."""
        if method in STEPS:
            self._steps.labels(method, "failed").inc()

    def _step_done(self, method: str, report: StepReport, seconds: float) -> None:
        outcome = report.outcome
        self._step.set(report.step)
        stopped = "stopped" if outcome.kl_budget == "stop" else "measured"
        self._steps.labels(method, "trained" if outcome.trained else stopped).inc()
        for counter, number in ((self._rows, "rows"), (self._tokens, "tokens"), (self._updates, "updates")):
            counter.labels(method).inc(outcome.metrics.get(number, 0.0))
        for row in outcome.excluded:
            self._excluded.labels(method, row.reason).inc()
        self._seconds.labels(method).observe(seconds)
        self._last.set(time.time())
