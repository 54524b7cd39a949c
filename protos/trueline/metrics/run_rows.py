"""What the orchestrator exports beside the numbers of its steps: where its run stands and how good it is."""

from trueline.metrics.record import Metric


def of_run(name: str, unit: str, help: str, *labels: str, type: str = "gauge") -> Metric:
    """A gauge or counter that the orchestrator computes itself."""
    return Metric(name, type, unit, ("orchestrator",), help, ("run", *labels))


PROGRESS = (
    of_run("trueline_run_info", "", "1 for the run that is driven; its recipe is a label.", "recipe"),
    of_run("trueline_stage_info", "", "1 for the stage that runs; its kind is a label.", "stage", "kind"),
    of_run("trueline_round", "rounds", "Newest committed step or round of a stage.", "stage"),
    of_run(
        "trueline_rounds_planned", "rounds", "Rounds that the stage will have; absent if unknown.", "stage"
    ),
    of_run(
        "trueline_rounds_total",
        "rounds",
        "Steps and rounds by what became of them.",
        "stage",
        "status",
        type="counter",
    ),
    of_run(
        "trueline_last_progress_timestamp_seconds",
        "seconds",
        "When a service last answered the run with work, in Unix time; before that, when it was started.",
    ),
    of_run("trueline_round_seconds", "seconds", "Seconds of the newest round.", "stage"),
    of_run("trueline_round_seconds_median", "seconds", "Median seconds of the last 20 rounds.", "stage"),
    of_run(
        "trueline_phase_seconds",
        "seconds",
        "Seconds of the newest round's phases; they overlap.",
        "stage",
        "phase",
    ),
    of_run(
        "trueline_round_idle_ratio", "ratio", "Share of the newest round in which no model computed.", "stage"
    ),
    of_run(
        "trueline_stage_seconds_total",
        "seconds",
        "Seconds spent in a stage, before a resume too.",
        "stage",
        type="counter",
    ),
    of_run(
        "trueline_retries_total",
        "retries",
        "Tries of a service's work that failed and were repeated.",
        "service",
        type="counter",
    ),
    of_run(
        "trueline_excluded_samples_total",
        "samples",
        "Rows that the trainer left out, by cause.",
        "stage",
        "cause",
        type="counter",
    ),
    of_run(
        "trueline_kl_budget_nats",
        "nats",
        "The stage's KL budgets; absent where there is none.",
        "stage",
        "limit",
    ),
    of_run("trueline_gold_slope_per_round", "score", "Slope of gold over the last measured rounds.", "stage"),
    of_run(
        "trueline_gold_slope_error_per_round",
        "score",
        "Standard error of that slope, from the spread of the measurements.",
        "stage",
    ),
    of_run("trueline_proxy_slope_per_round", "score", "Slope of the proxy over the same rounds.", "stage"),
    of_run(
        "trueline_gold_below_peak_ratio",
        "ratio",
        "How far gold lies below its peak, in standard errors of their difference.",
        "stage",
    ),
    of_run(
        "trueline_proxy_above_peak", "score", "The proxy less what it was where gold had its peak.", "stage"
    ),
)

QUALITY = (
    of_run(
        "trueline_evaluation_score",
        "score",
        "Mean score on held-out prompts of an evaluation, by scorer's role.",
        "stage",
        "model",
        "role",
    ),
    of_run(
        "trueline_evaluation_win_rate_ratio",
        "ratio",
        "How often the aligned model's gold beats the other's, ties half.",
        "stage",
    ),
    of_run(
        "trueline_evaluation_kl_nats",
        "nats",
        "KL to the reference in nats per sequence, on held-out prompts.",
        "stage",
        "estimator",
    ),
    of_run(
        "trueline_heldout_accuracy_ratio",
        "ratio",
        "Share of held-out comparisons that the reward model orders as their labels do.",
        "stage",
    ),
)

FEEDBACK = (
    of_run(
        "trueline_judge_agreement_ratio",
        "ratio",
        "Share of the newest round's verdicts that gold, or a person, shares.",
        "stage",
        "against",
    ),
    of_run(
        "trueline_judge_kappa",
        "kappa",
        "Cohen's kappa of those verdicts: 1 is full agreement, 0 no more than chance.",
        "stage",
        "against",
    ),
    of_run(
        "trueline_judge_calibration_error",
        "probability",
        "Mean gap between how sure those verdicts are and how often they are right.",
        "stage",
        "against",
    ),
    of_run(
        "trueline_judge_length_correlation",
        "correlation",
        "Correlation of the newest round's verdicts with how much longer a response is.",
        "stage",
    ),
)

RUN_METRICS = (*PROGRESS, *QUALITY, *FEEDBACK)
