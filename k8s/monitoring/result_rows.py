"""Rows of the training board about pairs, and about what came of the run."""

from k8s.monitoring.board import Row
from k8s.monitoring.run_panels import numbers, panel

NO_REWARD_MODEL = "a reward model stage"
NO_PAIRS = "a stage that learns from pairs"
NO_EVALUATION = "a finished evaluation"

PAIRS = Row(
    "Learning from pairs",
    (
        panel(
            "Preference accuracy",
            "percentunit",
            "Share of pairs that the reward model, or the policy's implicit reward, "
            "orders as the labels do. Good: rises above 0.5; near 1 on training pairs is overfitting.",
            numbers("trueline_preference_accuracy_ratio", ""),
            needs=NO_REWARD_MODEL,
        ),
        panel(
            "Margin",
            "short",
            "Mean lead of the better side's reward. Good: grows. Bad: grows without end while "
            "held-out accuracy falls.",
            numbers("trueline_preference_margin", ""),
            needs=NO_REWARD_MODEL,
        ),
        panel(
            "Implicit rewards",
            "short",
            "Of chosen and rejected responses. Good: they part with chosen above 0. Bad: "
            "both sink: the policy forgets the chosen ones too.",
            numbers("trueline_preference_reward", "{{side}}"),
            needs=NO_PAIRS,
        ),
        panel(
            "Log-probs of the sides",
            "short",
            "Nats per response. Bad: the chosen side's falls far.",
            numbers("trueline_preference_logprob_nats", "{{side}}"),
            needs=NO_PAIRS,
        ),
        panel(
            "KL on the pairs",
            "short",
            "Nats per response to the reference, on the pairs' own responses.",
            numbers("trueline_preference_kl_nats", "{{estimator}}"),
            needs=NO_PAIRS,
        ),
        panel(
            "KTO baseline",
            "short",
            "Nats: the log-ratio of responses to prompts that they do not answer. Good: near 0.",
            numbers("trueline_kto_baseline_nats", ""),
            needs="KTO",
        ),
        panel(
            "Held-out accuracy",
            "percentunit",
            "Share of held-out comparisons that the reward model orders as their "
            "labels do. Below 0.6 its reward is mostly noise.",
            numbers("trueline_heldout_accuracy_ratio", ""),
            needs="a finished reward model stage",
        ),
    ),
)

EVALUATED = Row(
    "Evaluation",
    (
        panel(
            "Scores on held-out prompts",
            "short",
            "Before and after, by gold and proxy. Bad: only the proxy gained.",
            numbers("trueline_evaluation_score", "{{model}} {{role}}"),
            needs=NO_EVALUATION,
        ),
        panel(
            "Win rate",
            "percentunit",
            "How often the aligned model beats the one before, by gold. Good: above 0.5.",
            numbers("trueline_evaluation_win_rate_ratio", ""),
            needs=NO_EVALUATION,
        ),
        panel(
            "KL of the result",
            "short",
            "Nats per sequence to the reference on held-out prompts.",
            numbers("trueline_evaluation_kl_nats", "{{estimator}}"),
            needs=NO_EVALUATION,
        ),
        panel(
            "Size of a step",
            "short",
            "Rows, rollouts, comparisons, updates and what was left out, of the newest step.",
            numbers("trueline_step_rows", "rows"),
            numbers("trueline_step_rollouts", "rollouts"),
            numbers("trueline_step_comparisons", "comparisons"),
            numbers("trueline_step_updates", "updates"),
            numbers("trueline_step_excluded_rows", "excluded"),
        ),
        panel(
            "Tokens of a step",
            "short",
            "Tokens read, and those that bore loss.",
            numbers("trueline_step_tokens", "read"),
            numbers("trueline_step_loss_tokens", "bore loss"),
        ),
        panel(
            "Seconds by stage",
            "s",
            "Time spent in each stage, before a resume too.",
            numbers("trueline_stage_seconds_total", ""),
        ),
    ),
)
