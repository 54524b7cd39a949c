"""Numbers of the last step or round of each stage, as the orchestrator exports them from its ledger.

A gauge with `numbers` shows those of the ledger; the trainer may report no others.
A number that does not exist (the spread of one score, a gradient norm in a round that trains no policy) is
absent: never 0, never NaN.
"""

from trueline.metrics.record import Metric, Number

STAGE = ("run", "stage")
ORCHESTRATOR = ("orchestrator",)


def of_step(name: str, unit: str, help: str, *numbers: Number, labels: tuple[str, ...] = ()) -> Metric:
    """A gauge of the newest committed step or round of a stage."""
    return Metric(name, "gauge", unit, ORCHESTRATOR, help, (*STAGE, *labels), (), numbers)


def one(name: str, unit: str, number_name: str, help: str) -> Metric:
    """A gauge of one number."""
    return of_step(name, unit, help, Number(number_name, help))


def several(name: str, unit: str, help: str, label: str | tuple[str, ...], *numbers: Number) -> Metric:
    """A gauge whose numbers a label tells apart."""
    return of_step(name, unit, help, *numbers, labels=(label,) if isinstance(label, str) else label)


def number(name: str, help: str, *labels: str) -> Number:
    """A number with its label values."""
    return Number(name, help, labels)


EVERY_STEP = (
    one("trueline_step_rows", "rows", "rows", "Rows that trained or were measured."),
    one("trueline_step_excluded_rows", "rows", "excluded", "Rows that were left out."),
    one(
        "trueline_step_tokens",
        "tokens",
        "tokens",
        "Tokens of these rows that the step read, padding left out; for PPO prompt and response.",
    ),
    one("trueline_step_updates", "updates", "updates", "Optimizer updates of this step."),
    one(
        "trueline_loss",
        "loss",
        "loss",
        "Mean loss: per loss token in SFT, per prompt in reward modelling, per pair by weight.",
    ),
    several(
        "trueline_gradient_norm",
        "norm",
        "Mean gradient norm of the updates, before clipping.",
        "model",
        number("gradient_norm", "Mean gradient norm of the updates, before clipping.", "trained"),
        number(
            "gradient_norm_policy", "Mean gradient norm of the policy's updates, before clipping.", "policy"
        ),
        number(
            "gradient_norm_critic", "Mean gradient norm of the critic's updates, before clipping.", "critic"
        ),
    ),
    several(
        "trueline_learning_rate",
        "rate",
        "Learning rate of the last update.",
        "model",
        number("learning_rate", "Learning rate of the last update.", "trained"),
        number("learning_rate_policy", "Learning rate of the policy's last update.", "policy"),
        number("learning_rate_critic", "Learning rate of the critic's last update.", "critic"),
    ),
    one("trueline_step_loss_tokens", "tokens", "loss_tokens", "Tokens that bore loss."),
)

PREFERENCE = (
    one(
        "trueline_preference_accuracy_ratio",
        "ratio",
        "accuracy",
        "Share of the comparisons with a better side that the rewards order as the labels do.",
    ),
    one(
        "trueline_preference_margin",
        "reward",
        "margin_mean",
        "Mean lead of the better side's reward over the other's.",
    ),
    one(
        "trueline_step_comparisons",
        "comparisons",
        "comparisons",
        "Comparisons that trained or were measured.",
    ),
    several(
        "trueline_preference_reward",
        "reward",
        "Mean implicit reward (beta times the log-ratio to the reference), by side.",
        "side",
        number(
            "reward_chosen",
            "Mean implicit reward (beta times the log-ratio to the reference) of the better side.",
            "chosen",
        ),
        number("reward_rejected", "The same of the other responses.", "rejected"),
    ),
    several(
        "trueline_preference_logprob_nats",
        "nats",
        "Mean log-prob of the responses, per response, by side.",
        "side",
        number("logprob_chosen", "Mean log-prob of the better responses, in nats per response.", "chosen"),
        number("logprob_rejected", "The same of the other responses.", "rejected"),
    ),
    several(
        "trueline_preference_kl_nats",
        "nats",
        "Log-ratio to the reference per response; estimates the KL on its own samples.",
        "estimator",
        number(
            "kl_implicit_k1",
            "Log-ratio to the reference in nats per response; estimates the KL on its own samples.",
            "k1",
        ),
        number("kl_implicit_k3", "The same by estimator k3, which is never negative.", "k3"),
    ),
    one(
        "trueline_kto_baseline_nats",
        "nats",
        "kto_baseline",
        "Mean of KTO's baseline, the log-ratio of responses to prompts they do not answer.",
    ),
)

REWARD = (
    several(
        "trueline_reward_mean",
        "score",
        "Mean reward: raw as scored, normalised, and shaped by penalties and KL.",
        "form",
        number("score_raw_mean", "Mean score as the scorer said it.", "raw"),
        number("score_mean", "Mean normalised score, before clip, penalty and KL.", "normalised"),
        number(
            "reward_mean",
            "Mean reward: of all responses in reward modelling; in PPO per rollout, after the KL.",
            "shaped",
        ),
    ),
    several(
        "trueline_reward_stddev",
        "score",
        "Standard deviation (biased) of the rewards.",
        "form",
        number(
            "score_raw_stddev", "Standard deviation (biased) of the scores as the scorer said them.", "raw"
        ),
        number("score_stddev", "Standard deviation (biased) of the normalised scores.", "normalised"),
        number("reward_stddev", "Standard deviation (biased) of the rewards; in PPO after the KL.", "shaped"),
    ),
    several(
        "trueline_reward_quantile",
        "score",
        "Quantiles of the rewards over the rollouts.",
        ("form", "quantile"),
        number(
            "score_raw_p05", "5% of the scores, as the scorer said them, are at most this.", "raw", "0.05"
        ),
        number("score_raw_p50", "Median of these scores.", "raw", "0.5"),
        number("score_raw_p95", "95% of them are at most this.", "raw", "0.95"),
        number("reward_p05", "5% of the rewards, after the KL, are at most this.", "shaped", "0.05"),
        number("reward_p50", "Median of these rewards.", "shaped", "0.5"),
        number("reward_p95", "95% of them are at most this.", "shaped", "0.95"),
    ),
    one(
        "trueline_reward_clipped_ratio",
        "ratio",
        "score_clipped_share",
        "Share of the scores that the score clip moved.",
    ),
    one(
        "trueline_reward_length_correlation",
        "correlation",
        "reward_length_correlation",
        "Correlation (Pearson) of raw score and response length.",
    ),
    several(
        "trueline_gold_score",
        "score",
        "Gold on held-out prompts, which never trains: mean and 95% interval.",
        "bound",
        number("gold", "Mean gold score of the policy on held-out prompts.", "mean"),
        number("gold_low", "Lower end of its 95% interval.", "low"),
        number("gold_high", "Upper end of its 95% interval.", "high"),
    ),
    one(
        "trueline_proxy_score",
        "score",
        "proxy",
        "Mean normalised score of the trained reward on the same held-out prompts.",
    ),
)

RESPONSES = (
    one("trueline_step_rollouts", "rollouts", "rollouts", "Rollouts that trained."),
    one(
        "trueline_response_length_mean_tokens", "tokens", "response_tokens_mean", "Mean tokens of a response."
    ),
    one(
        "trueline_response_ended_ratio",
        "ratio",
        "ended_share",
        "Share of the responses that ended themselves.",
    ),
    one(
        "trueline_response_truncated_ratio",
        "ratio",
        "truncated_share",
        "Share of the responses that the length limit cut off.",
    ),
    one(
        "trueline_response_missing_eos_ratio",
        "ratio",
        "missing_eos_share",
        "Share of the responses without an end-of-text token: cut off, or ended by a stop text.",
    ),
    one(
        "trueline_response_repetition_ratio",
        "ratio",
        "repetition",
        "Share of a response's 3-grams that it has said before, mean over the responses of 3 tokens or more.",
    ),
    several(
        "trueline_response_distinct_ratio",
        "ratio",
        "Distinct n-grams of the batch's responses over all of them.",
        "n",
        number("distinct_1", "Distinct tokens of the batch's responses over all their tokens.", "1"),
        number("distinct_2", "Distinct pairs of neighbouring tokens over all such pairs.", "2"),
    ),
)

DISTANCE = (
    several(
        "trueline_kl_reference_nats",
        "nats",
        "KL to the reference per sequence, mean over the rollouts.",
        "estimator",
        number(
            "kl_reference_k1",
            "KL to the reference in nats per sequence, estimator k1, mean over the rollouts.",
            "k1",
        ),
        number("kl_reference_k3", "The same by estimator k3, which is never negative.", "k3"),
    ),
    several(
        "trueline_kl_reference_per_token_nats",
        "nats",
        "KL to the reference per token.",
        "estimator",
        number("kl_reference_k1_per_token", "KL to the reference in nats per token, estimator k1.", "k1"),
        number("kl_reference_k3_per_token", "The same by estimator k3.", "k3"),
    ),
    one(
        "trueline_kl_coefficient",
        "coefficient",
        "kl_coefficient",
        "Weight of the KL in this round's rewards.",
    ),
    several(
        "trueline_mismatch_kl_nats",
        "nats",
        "KL(sampler || trainer) per token for the same weights.",
        "estimator",
        number(
            "mismatch_k1",
            "KL(sampler || trainer) in nats per token for the same weights, estimator k1.",
            "k1",
        ),
        number("mismatch_k3", "The same by estimator k3.", "k3"),
    ),
    one(
        "trueline_mismatch_effective_sample_ratio",
        "ratio",
        "mismatch_ess",
        "Effective sample size as a share of the tokens, in (0, 1].",
    ),
    one(
        "trueline_mismatch_largest_nats",
        "nats",
        "mismatch_largest",
        "Largest difference of a log-prob between sampler and trainer, in nats.",
    ),
)

UPDATES = (
    one("trueline_policy_loss", "loss", "policy_loss", "Mean clipped surrogate loss per token."),
    one(
        "trueline_kl_update_nats",
        "nats",
        "kl_update",
        "Approximate KL of the updates in nats per token: half the mean squared log-ratio.",
    ),
    several(
        "trueline_clipped_tokens_ratio",
        "ratio",
        "Share of the tokens whose gradient a clip removed.",
        "clip",
        number("clip_fraction", "Share of the tokens whose gradient the ratio clip removed.", "ratio"),
        number("dual_clip_fraction", "Share of the tokens whose gradient the dual clip removed.", "dual"),
        number("value_clip_fraction", "Share of the tokens whose gradient the value clip removed.", "value"),
    ),
    one("trueline_probability_ratio_mean", "ratio", "ratio_mean", "Mean ratio of new to old probability."),
    one("trueline_probability_ratio_variance", "variance", "ratio_variance", "Variance of that ratio."),
    one(
        "trueline_entropy_nats",
        "nats",
        "entropy",
        "Entropy of the policy in nats per response token, before the updates.",
    ),
    one("trueline_value_loss", "loss", "value_loss", "Mean value loss per token, before its coefficient."),
    one(
        "trueline_value_explained_variance_ratio",
        "ratio",
        "explained_variance",
        "Share of the returns' variance that the critic foretold.",
    ),
    one("trueline_value_mean", "score", "value_mean", "Mean value that the critic foretold."),
    one("trueline_return_mean", "score", "return_mean", "Mean return."),
)

STEP_METRICS = (*EVERY_STEP, *PREFERENCE, *REWARD, *RESPONSES, *DISTANCE, *UPDATES)
