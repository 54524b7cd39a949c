"""Every number that a step reports, and what it means. Adding one is a row here and a line where it arises.

A number that does not exist (the spread of one score, a gradient norm in a round that trains no policy) is
absent: never 0, never NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

METRICS = {
    # All steps
    "rows": "Rows that trained or were measured.",
    "excluded": "Rows that were left out.",
    "tokens": "Tokens of these rows that the step read, padding left out; for PPO prompt and response.",
    "updates": "Optimizer updates of this step.",
    "loss": "Mean loss: per loss token in SFT, per prompt in reward modelling, per pair by weight.",
    "gradient_norm": "Mean gradient norm of the updates, before clipping.",
    "learning_rate": "Learning rate of the last update.",
    # SFT and preference learning
    "loss_tokens": "Tokens that bore loss.",
    # Reward modelling and preference learning, whose rewards are implicit
    "accuracy": "Share of the comparisons with a better side that the rewards order as the labels do.",
    "margin_mean": "Mean lead of the better side's reward over the other's.",
    "comparisons": "Comparisons that trained or were measured.",
    # Reward modelling
    "reward_stddev": "Standard deviation (biased) of the rewards.",
    # Preference learning: all during the step's passes, before the update that each is for
    "reward_chosen": "Mean implicit reward (beta times the log-ratio to the reference) of the better side.",
    "reward_rejected": "The same of the other responses.",
    "logprob_chosen": "Mean log-prob of the better responses, in nats per response.",
    "logprob_rejected": "The same of the other responses.",
    "kl_implicit_k1": "Log-ratio to the reference in nats per response; estimates the KL on its own samples.",
    "kl_implicit_k3": "The same by estimator k3, which is never negative.",
    "kto_baseline": "Mean of KTO's baseline, the log-ratio of responses to prompts they do not answer.",
    # Reward modelling and PPO
    "reward_mean": "Mean reward: of all responses in reward modelling; in PPO per rollout, after the KL.",
    # PPO: the batch
    "rollouts": "Rollouts that trained.",
    "response_tokens_mean": "Mean tokens of a response.",
    "ended_share": "Share of the responses that ended themselves.",
    "truncated_share": "Share of the responses that the length limit cut off.",
    "score_mean": "Mean normalised score, before clip, penalty and KL.",
    "score_stddev": "Standard deviation (biased) of the normalised scores.",
    "score_raw_mean": "Mean score as the scorer said it.",
    "score_clipped_share": "Share of the scores that the score clip moved.",
    # PPO: distance to the reference
    "kl_reference_k1": "KL to the reference in nats per sequence, estimator k1, mean over the rollouts.",
    "kl_reference_k3": "The same by estimator k3, which is never negative.",
    "kl_reference_k1_per_token": "KL to the reference in nats per token, estimator k1.",
    "kl_reference_k3_per_token": "The same by estimator k3.",
    "kl_coefficient": "Weight of the KL in this round's rewards.",
    # PPO: sampler against trainer
    "mismatch_k1": "KL(sampler || trainer) in nats per token for the same weights, estimator k1.",
    "mismatch_k3": "The same by estimator k3.",
    "mismatch_ess": "Effective sample size as a share of the tokens, in (0, 1].",
    "mismatch_largest": "Largest difference of a log-prob between sampler and trainer, in nats.",
    # PPO: the policy's updates
    "policy_loss": "Mean clipped surrogate loss per token.",
    "kl_update": "Approximate KL of the updates in nats per token: half the mean squared log-ratio.",
    "clip_fraction": "Share of the tokens whose gradient the ratio clip removed.",
    "dual_clip_fraction": "Share of the tokens whose gradient the dual clip removed.",
    "ratio_mean": "Mean ratio of new to old probability.",
    "ratio_variance": "Variance of that ratio.",
    "entropy": "Entropy of the policy in nats per response token, before the updates.",
    "gradient_norm_policy": "Mean gradient norm of the policy's updates, before clipping.",
    "learning_rate_policy": "Learning rate of the policy's last update.",
    # PPO: the critic's updates
    "value_loss": "Mean value loss per token, before its coefficient.",
    "value_clip_fraction": "Share of the tokens whose gradient the value clip removed.",
    "explained_variance": "Share of the returns' variance that the critic foretold.",
    "value_mean": "Mean value that the critic foretold.",
    "return_mean": "Mean return.",
    "gradient_norm_critic": "Mean gradient norm of the critic's updates, before clipping.",
    "learning_rate_critic": "Learning rate of the critic's last update.",
}


def measured(numbers: Mapping[str, float | None]) -> dict[str, float]:
    """The numbers that exist. KeyError for a name that METRICS does not explain."""
    for name in numbers:
        METRICS[name]
    known = {name: float(value) for name, value in numbers.items() if value is not None}
    return {name: value for name, value in known.items() if math.isfinite(value)}


def mean(numbers: list[float]) -> float | None:
    """The mean; None of nothing."""
    return sum(numbers) / len(numbers) if numbers else None
