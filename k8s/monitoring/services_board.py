"""Services: rate, errors, duration, queues, versions, throughput."""

from k8s.monitoring.board import Board, Panel, Query, Row, of_service, rate


def quantile(q: float, histogram: str, by: str) -> str:
    """A quantile of a histogram of the services."""
    return f"histogram_quantile({q}, sum by ({by}, le) ({rate(histogram + '_bucket')}))"


def mean(histogram: str, by: str) -> str:
    """The mean of a histogram."""
    return f"sum by ({by}) ({rate(histogram + '_sum')}) / sum by ({by}) ({rate(histogram + '_count')})"


FAILED = rate("grpc_server_handled_total", 'grpc_code!="OK"')

CALLS = Row(
    "Calls",
    (
        Panel(
            "Up",
            "1 where the last scrape worked. Bad: 0, or a replica that is missing.",
            "short",
            (Query(of_service("up"), "{{job}} {{instance}}"),),
            "stat",
        ),
        Panel(
            "Calls a second",
            "By service and method.",
            "reqps",
            (
                Query(
                    f"sum by (job, instance, grpc_method) ({rate('grpc_server_started_total')})",
                    "{{instance}} {{grpc_method}}",
                ),
            ),
        ),
        Panel(
            "Calls that failed",
            "Calls a second that ended in anything but OK, by code. Good: none. "
            "RESOURCE_EXHAUSTED is a full queue, FAILED_PRECONDITION a caller that is behind.",
            "reqps",
            (
                Query(
                    f"sum by (job, instance, grpc_method, grpc_code) ({FAILED})",
                    "{{instance}} {{grpc_method}} {{grpc_code}}",
                ),
            ),
            needs="a call that failed",
        ),
        Panel(
            "Duration, 95%",
            "95% of the calls take at most this, by buckets.",
            "s",
            (
                Query(
                    quantile(0.95, "grpc_server_handling_seconds", "job, instance, grpc_method"),
                    "{{instance}} {{grpc_method}}",
                ),
            ),
        ),
        Panel(
            "Messages a second",
            "In and out; long calls send signs of life.",
            "ops",
            (
                Query(
                    f"sum by (job, instance) ({rate('grpc_server_msg_received_total')})", "{{instance}} in"
                ),
                Query(f"sum by (job, instance) ({rate('grpc_server_msg_sent_total')})", "{{instance}} out"),
            ),
        ),
        Panel(
            "Build",
            "Versions in use. Bad: replicas of one service that differ.",
            "short",
            (
                Query(
                    of_service("trueline_build_info"), "{{job}} {{version}} grpc {{grpc}} python {{python}}"
                ),
            ),
            "stat",
        ),
    ),
)

QUEUES = Row(
    "Work and queues",
    (
        Panel(
            "Queue",
            "Calls that wait for model work, and how many may. Bad: near the limit: the next is refused.",
            "short",
            (
                Query(of_service("trueline_work_waiting_calls"), "{{instance}} waiting"),
                Query(of_service("trueline_work_waiting_limit_calls"), "{{instance}} limit"),
            ),
        ),
        Panel(
            "Refused calls",
            "Calls a second that found the queue full. Good: none.",
            "reqps",
            (Query(rate("trueline_work_refused_calls_total"), "{{instance}}"),),
        ),
        Panel(
            "Busy share",
            "Share of the worker threads' time spent on model work; the rest is idle. Good: the policy "
            "near 1 while it samples.",
            "percentunit",
            (
                Query(
                    f"{rate('trueline_work_compute_seconds_sum')} / {of_service('trueline_work_threads')}",
                    "{{instance}}",
                ),
            ),
        ),
        Panel(
            "Running calls",
            "Calls whose model work runs.",
            "short",
            (Query(of_service("trueline_work_running_calls"), "{{instance}}"),),
        ),
        Panel(
            "Seconds in the queue",
            "Mean wait of a call for model work.",
            "s",
            (Query(mean("trueline_work_queue_seconds", "job, instance"), "{{instance}}"),),
        ),
        Panel(
            "Seconds of model work",
            "Mean per call.",
            "s",
            (Query(mean("trueline_work_compute_seconds", "job, instance"), "{{instance}}"),),
        ),
    ),
)

THROUGHPUT = Row(
    "Throughput",
    (
        Panel(
            "Rollouts a second",
            "By why they ended. Bad: mostly length.",
            "ops",
            (
                Query(
                    f"sum by (job, instance, finish_reason) ({rate('trueline_rollouts_total')})",
                    "{{instance}} {{finish_reason}}",
                ),
            ),
        ),
        Panel(
            "Tokens a second",
            "Sampled, read as prompts, given log-probs, scored, and trained on.",
            "ops",
            (
                Query(rate("trueline_generated_tokens_total"), "{{instance}} generated"),
                Query(rate("trueline_prompt_tokens_total"), "{{instance}} prompts"),
                Query(rate("trueline_logprob_tokens_total"), "{{instance}} log-probs"),
                Query(
                    f"sum by (job, instance) ({rate('trueline_trainer_tokens_total')})",
                    "{{instance}} trained",
                ),
            ),
        ),
        Panel(
            "Samples a second",
            "Items scored and rows trained on.",
            "ops",
            (
                Query(
                    f"sum by (job, instance) ({rate('trueline_reward_items_total')})", "{{instance}} scored"
                ),
                Query(
                    f"sum by (job, instance) ({rate('trueline_trainer_rows_total')})", "{{instance}} trained"
                ),
            ),
        ),
        Panel(
            "Batch fill",
            "Tokens sampled over rows times the longest row of a chunk. Bad: below 0.5: a few long "
            "answers hold up many short ones.",
            "percentunit",
            (
                Query(
                    f"{rate('trueline_generated_tokens_total')} / {rate('trueline_generation_slots_total')}",
                    "{{instance}}",
                ),
            ),
        ),
        Panel(
            "Response length, 95%",
            "Tokens, by buckets.",
            "short",
            (Query(quantile(0.95, "trueline_response_length_tokens", "job, instance"), "{{instance}}"),),
        ),
    ),
)

TRAINER = Row(
    "Trainer",
    (
        Panel(
            "Step",
            "Steps of the stage that are done.",
            "short",
            (Query(of_service("trueline_trainer_step"), "{{instance}}"),),
        ),
        Panel(
            "Steps by what came of them",
            "In the last minutes. Bad: failed: undone after an error or a number that is none.",
            "short",
            (
                Query(
                    f"increase({of_service('trueline_trainer_steps_total')}[$__rate_interval])",
                    "{{method}} {{outcome}}",
                ),
            ),
        ),
        Panel(
            "Seconds of a step",
            "Mean, by method.",
            "s",
            (Query(mean("trueline_trainer_step_seconds", "job, instance, method"), "{{method}}"),),
        ),
        Panel(
            "Updates a second",
            "Optimizer updates, by method.",
            "ops",
            (Query(rate("trueline_trainer_updates_total"), "{{method}}"),),
        ),
        Panel(
            "Rows left out",
            "A second, by cause. Good: none.",
            "ops",
            (
                Query(
                    f"sum by (job, instance, method, cause) ({rate('trueline_trainer_excluded_rows_total')})",
                    "{{method}} {{cause}}",
                ),
            ),
            needs="a row that was left out",
        ),
        Panel(
            "Time since the last step",
            "Seconds. It saws while the trainer trains.",
            "s",
            (
                Query(
                    f"time() - {of_service('trueline_trainer_last_step_timestamp_seconds')}", "{{instance}}"
                ),
            ),
        ),
    ),
)

WEIGHTS = Row(
    "Versions",
    (
        Panel(
            "Versions served",
            "By model and replica. Good: replicas of one service on one line.",
            "short",
            (Query(of_service("trueline_weights_version"), "{{instance}} {{model}}"),),
        ),
        Panel(
            "Version published last",
            "By model; what is served follows it within seconds.",
            "short",
            (Query(of_service("trueline_weights_published_version"), "{{model}}"),),
        ),
        Panel(
            "Seconds to publish and load",
            "Mean, by model.",
            "s",
            (
                Query(mean("trueline_weights_publish_seconds", "job, instance, model"), "publish {{model}}"),
                Query(
                    mean("trueline_weights_load_seconds", "job, instance, model"),
                    "{{instance}} load {{model}}",
                ),
            ),
        ),
        Panel(
            "Bytes published and loaded",
            "A second: what versions cost of disk and network.",
            "Bps",
            (
                Query(rate("trueline_weights_published_bytes_total"), "publish {{model}}"),
                Query(rate("trueline_weights_loaded_bytes_total"), "{{instance}} load {{model}}"),
            ),
        ),
        Panel(
            "Loads that failed",
            "In the last minutes. Bad: any: the replica serves the version before.",
            "short",
            (
                Query(
                    f"increase({of_service('trueline_weights_load_failures_total')}[$__rate_interval])",
                    "{{instance}} {{model}}",
                ),
            ),
        ),
        Panel(
            "Seconds to write a checkpoint",
            "Mean.",
            "s",
            (Query(mean("trueline_checkpoint_seconds", "job, instance"), "{{instance}}"),),
            needs="a checkpoint",
        ),
    ),
)

MACHINE = Row(
    "Machine",
    (
        Panel(
            "Memory",
            "Resident bytes of each process. Bad: it climbs with every round.",
            "bytes",
            (Query(of_service("process_resident_memory_bytes"), "{{instance}}"),),
        ),
        Panel("CPU", "Cores in use.", "short", (Query(rate("process_cpu_seconds_total"), "{{instance}}"),)),
        Panel(
            "GPU engine",
            "Share of time in which the GPU computed, from NVIDIA's DCGM exporter; works with MIG.",
            "percentunit",
            (Query(of_service("DCGM_FI_PROF_GR_ENGINE_ACTIVE"), "GPU {{gpu}}"),),
            needs="a GPU and NVIDIA's DCGM exporter",
        ),
        Panel(
            "GPU memory",
            "MiB in use, from NVIDIA's DCGM exporter.",
            "decmbytes",
            (Query(of_service("DCGM_FI_DEV_FB_USED"), "GPU {{gpu}}"),),
            needs="a GPU and NVIDIA's DCGM exporter",
        ),
    ),
)

SERVICES = Board(
    "trueline-services",
    "Trueline: services",
    "Rate, errors, duration, queues and versions of every replica.",
    "up",
    (CALLS, QUEUES, THROUGHPUT, TRAINER, WEIGHTS, MACHINE),
)
