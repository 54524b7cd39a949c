"""Every metric that a part of Trueline exports: one table, which all read.

Services and orchestrator make their metrics from it, so a name that is not in it cannot be exported; docs,
dashboards and alerts are generated from it or held against it. Adding a metric is one row.

    METRICS["trueline_rollouts_total"].made(prometheus_client, registry)     the Counter, registered
    STEP_NUMBERS["kl_reference_k1"]                                          what a step's number means

No prompt, no id and no round is ever a label: `labels` are bounded by the recipe and by words in the code.
"""

from trueline.metrics.record import Metric, Number
from trueline.metrics.run_rows import RUN_METRICS
from trueline.metrics.service_rows import SERVICE_METRICS
from trueline.metrics.step_rows import STEP_METRICS

__all__ = ["METRICS", "STEP_NUMBERS", "Metric", "Number"]

METRICS: dict[str, Metric] = {each.name: each for each in (*SERVICE_METRICS, *RUN_METRICS, *STEP_METRICS)}

# Number of a step or a round, by the name that the trainer's StepResult and the ledger use.
STEP_NUMBERS: dict[str, Number] = {number.name: number for each in STEP_METRICS for number in each.numbers}
