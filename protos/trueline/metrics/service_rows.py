"""What services export: counters and histograms of what each replica did."""

from trueline.metrics.record import EVERYONE, SERVICES, Metric

RPC_LABELS = ("grpc_type", "grpc_service", "grpc_method")
SECONDS = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 300.0, 1800.0)
LOAD_SECONDS = (0.05, 0.2, 1.0, 5.0, 20.0, 60.0, 300.0, 1200.0)
TOKENS = (1.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0)
DISAGREEMENTS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0)  # normalised scores spread by about 1
SCORES = (-10.0, -5.0, -3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0)

POLICY, REWARD, JUDGE, TRAINER = ("policy",), ("reward",), ("judge",), ("trainer",)
LOADERS = ("policy", "reference", "reward", "judge")


def counter(name: str, exporters: tuple[str, ...], help: str, *labels: str, unit: str = "") -> Metric:
    """A counter; its unit is the word before _total."""
    word = unit or name.removesuffix("_total").rpartition("_")[2]
    return Metric(name, "counter", word, exporters, help, labels)


def histogram(
    name: str,
    exporters: tuple[str, ...],
    help: str,
    *labels: str,
    unit: str = "seconds",
    buckets: tuple[float, ...] = SECONDS,
) -> Metric:
    """A histogram, of seconds where nothing else is said."""
    return Metric(name, "histogram", unit, exporters, help, labels, buckets)


def gauge(name: str, unit: str, exporters: tuple[str, ...], help: str, *labels: str) -> Metric:
    """A gauge."""
    return Metric(name, "gauge", unit, exporters, help, labels)


SERVICE_METRICS = (
    Metric("trueline_build_info", "info", "", EVERYONE, "What runs: versions of Trueline, gRPC and Python."),
    # Calls, under the names that go-grpc-prometheus gave them, so that known dashboards and alerts fit
    counter("grpc_server_started_total", SERVICES, "Calls that began.", *RPC_LABELS, unit="calls"),
    counter(
        "grpc_server_handled_total",
        SERVICES,
        "Calls that ended, by code.",
        *RPC_LABELS,
        "grpc_code",
        unit="calls",
    ),
    counter(
        "grpc_server_msg_received_total", SERVICES, "Messages that came in.", *RPC_LABELS, unit="messages"
    ),
    counter("grpc_server_msg_sent_total", SERVICES, "Messages that went out.", *RPC_LABELS, unit="messages"),
    histogram(
        "grpc_server_handling_seconds", SERVICES, "Seconds from the start of a call to its end.", *RPC_LABELS
    ),
    # Model work and its queue
    gauge("trueline_work_waiting_calls", "calls", SERVICES, "Calls that wait for model work."),
    gauge(
        "trueline_work_waiting_limit_calls", "calls", SERVICES, "Calls that may wait; one more is refused."
    ),
    gauge("trueline_work_running_calls", "calls", SERVICES, "Calls whose model work runs."),
    gauge("trueline_work_threads", "threads", SERVICES, "Calls whose model work can run at once."),
    counter("trueline_work_refused_calls_total", SERVICES, "Calls refused since too many waited."),
    histogram("trueline_work_queue_seconds", SERVICES, "Seconds that calls waited for model work."),
    histogram("trueline_work_compute_seconds", SERVICES, "Seconds of model work per call."),
    # Versions
    gauge("trueline_weights_version", "", LOADERS, "Number of the version that is served.", "model"),
    counter(
        "trueline_weights_load_failures_total",
        LOADERS,
        "Loads that failed; the version before goes on serving.",
        "model",
    ),
    histogram(
        "trueline_weights_load_seconds",
        LOADERS,
        "Seconds from the start of a load to the swap.",
        "model",
        buckets=LOAD_SECONDS,
    ),
    counter(
        "trueline_weights_loaded_bytes_total", LOADERS, "Bytes of the versions that were loaded.", "model"
    ),
    gauge(
        "trueline_weights_published_version", "", TRAINER, "Number of the version published last.", "model"
    ),
    histogram(
        "trueline_weights_publish_seconds",
        TRAINER,
        "Seconds that it took to write a version.",
        "model",
        buckets=LOAD_SECONDS,
    ),
    counter("trueline_weights_published_bytes_total", TRAINER, "Bytes of the versions written.", "model"),
    # Sampling
    counter("trueline_generated_tokens_total", POLICY, "Tokens sampled."),
    counter(
        "trueline_generation_slots_total",
        POLICY,
        "Rows of the chunks sampled times their longest response: tokens over these is the fill.",
    ),
    counter("trueline_prompt_tokens_total", POLICY, "Tokens of the prompts that were answered, each time."),
    counter("trueline_rollouts_total", POLICY, "Completions by why they ended.", "finish_reason"),
    histogram(
        "trueline_response_length_tokens", POLICY, "Tokens of a completion.", unit="tokens", buckets=TOKENS
    ),
    counter(
        "trueline_logprob_tokens_total",
        ("policy", "reference"),
        "Response tokens whose log-probs were computed.",
    ),
    # Scoring
    counter(
        "trueline_reward_items_total",
        REWARD,
        "Items by what came of them: scored, or the reason why not.",
        "scorer",
        "outcome",
    ),
    counter("trueline_reward_tokens_total", REWARD, "Tokens that scorers read.", "scorer"),
    counter(
        "trueline_reward_truncated_items_total",
        REWARD,
        "Items that were longer than the scorer's context.",
        "scorer",
    ),
    # Bounds below 0 leave a histogram without a sum: mean and spread are gauges
    histogram(
        "trueline_reward_score",
        REWARD,
        "Scores, raw as the scorer said them and normalised as they train.",
        "scorer",
        "form",
        unit="score",
        buckets=SCORES,
    ),
    gauge("trueline_reward_score_mean", "score", REWARD, "Mean score of the last batch.", "scorer", "form"),
    gauge(
        "trueline_reward_score_stddev",
        "score",
        REWARD,
        "Standard deviation (biased) of the scores of the last batch.",
        "scorer",
        "form",
    ),
    histogram(
        "trueline_reward_disagreement",
        REWARD,
        "Standard deviation of an ensemble's members over one item, in normalised scores.",
        "scorer",
        unit="score",
        buckets=DISAGREEMENTS,
    ),
    # The judge
    counter("trueline_judge_verdicts_total", JUDGE, "Pairs by what came of them.", "verdict"),
    counter("trueline_judge_scores_total", JUDGE, "Responses that got a score."),
    counter("trueline_judge_texts_total", JUDGE, "Critiques and revisions written.", "method"),
    counter(
        "trueline_judge_abstentions_total",
        JUDGE,
        "Items that got none of these, by reason.",
        "method",
        "reason",
    ),
    counter(
        "trueline_judge_slot_choices_total",
        JUDGE,
        "Answers about a pair by the slot they prefer: a bias shows here.",
        "slot",
    ),
    counter(
        "trueline_judge_order_flips_total",
        JUDGE,
        "Pairs and principles whose two orders prefer different responses.",
    ),
    counter(
        "trueline_judge_order_agreements_total",
        JUDGE,
        "Pairs and principles whose two orders prefer the same response.",
    ),
    counter("trueline_judge_order_pairs_total", JUDGE, "Pairs and principles that were read in both orders."),
    counter("trueline_judge_calls_total", JUDGE, "Requests made to the judge model, repeats included."),
    counter("trueline_judge_uncounted_calls_total", JUDGE, "Requests whose endpoint told no token counts."),
    counter("trueline_judge_tokens_total", JUDGE, "Tokens read and written by the judge model.", "kind"),
    counter("trueline_judge_constitution_reloads_total", JUDGE, "Reloads by what came of them.", "outcome"),
    gauge("trueline_judge_principles", "principles", JUDGE, "Principles of the constitution in force."),
    gauge("trueline_judge_constitution_info", "", JUDGE, "1 for the constitution in force.", "sha256"),
    # Training
    gauge("trueline_trainer_step", "steps", TRAINER, "Steps of the stage that are done."),
    counter(
        "trueline_trainer_steps_total",
        TRAINER,
        "Steps by method and by what came of them.",
        "method",
        "outcome",
    ),
    counter("trueline_trainer_rows_total", TRAINER, "Rows that trained or were measured.", "method"),
    counter("trueline_trainer_tokens_total", TRAINER, "Tokens that steps read, padding left out.", "method"),
    counter("trueline_trainer_updates_total", TRAINER, "Optimizer updates.", "method"),
    counter(
        "trueline_trainer_excluded_rows_total",
        TRAINER,
        "Rows that were left out, by cause: a score that is missing or NaN is one.",
        "method",
        "cause",
    ),
    histogram("trueline_trainer_step_seconds", TRAINER, "Seconds of a step.", "method"),
    histogram(
        "trueline_checkpoint_seconds",
        TRAINER,
        "Seconds that it took to write a checkpoint.",
        buckets=LOAD_SECONDS,
    ),
    gauge(
        "trueline_trainer_last_step_timestamp_seconds",
        "seconds",
        TRAINER,
        "When the last step ended, in Unix time; absent before the first.",
    ),
)
