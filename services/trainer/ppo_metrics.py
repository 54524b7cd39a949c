"""The numbers of a PPO round, from its tensors. Their names are explained in metrics.py.

Shapes: B rollouts, R response tokens.
"""

from __future__ import annotations

from torch import Tensor

from services.trainer.advantages import explained_variance, kl_estimate, sequence_sum
from services.trainer.metrics import mean
from services.trainer.ppo_loss import LOG_RATIO_LIMIT, sampler_mismatch
from services.trainer.ppo_policy import Updates
from services.trainer.response_statistics import distinct, repetition
from services.trainer.rounds import Round, Targets

Numbers = dict[str, float | None]


def of_batch(
    batch: Round, old_logprobs_BR: Tensor, entropy_BR: Tensor, score_clip: float
) -> dict[str, float]:
    """What the rollouts say before anything is trained."""
    mask_BR, scores_B = batch.mask_BR, batch.scores_B
    ended = _share(batch.ended_B)
    numbers: Numbers = {
        "rows": len(batch),
        "rollouts": len(batch),
        "tokens": batch.tokens,
        "response_tokens_mean": mask_BR.sum(-1).float().mean().item(),
        "ended_share": ended,
        "truncated_share": 1 - ended,
        "missing_eos_share": 1 - _share(batch.eos_B),
        "distinct_1": distinct(batch.responses, 1),
        "distinct_2": distinct(batch.responses, 2),
        "repetition": repetition(batch.responses),
        "score_mean": scores_B.mean().item(),
        "score_stddev": scores_B.std(correction=0).item(),
        **_spread("score_raw", batch.raw_scores_B),
        "reward_length_correlation": correlation(batch.raw_scores_B, mask_BR.sum(-1).float()),
        "entropy": entropy_BR[mask_BR].mean().item(),
        **({"score_clipped_share": _share(scores_B.abs() > score_clip)} if score_clip else {}),
        **_distance(batch, old_logprobs_BR),
        **_mismatch(batch, old_logprobs_BR),
    }
    return {name: number for name, number in numbers.items() if number is not None}


def _spread(name: str, numbers_B: Tensor) -> dict[str, float]:
    """Mean, standard deviation (biased) and three quantiles."""
    low, middle, high = numbers_B.quantile(numbers_B.new_tensor([0.05, 0.5, 0.95])).tolist()
    spread = {"mean": numbers_B.mean().item(), "stddev": numbers_B.std(correction=0).item()}
    return {f"{name}_{what}": number for what, number in spread.items()} | {
        f"{name}_p05": low,
        f"{name}_p50": middle,
        f"{name}_p95": high,
    }


def correlation(first_B: Tensor, second_B: Tensor) -> float | None:
    """Pearson's correlation; None where one of them does not vary."""
    first_B, second_B = first_B - first_B.mean(), second_B - second_B.mean()
    norm = (first_B.norm() * second_B.norm()).item()
    return (first_B @ second_B).item() / norm if norm > 0 else None


def _share(flags: Tensor) -> float:
    return flags.float().mean().item()


def _distance(batch: Round, old_logprobs_BR: Tensor) -> dict[str, float]:
    numbers = {}
    for estimator, limit in (("k1", float("inf")), ("k3", LOG_RATIO_LIMIT)):
        kl_BR = kl_estimate(old_logprobs_BR, batch.reference_logprobs_BR, estimator, limit)
        name = f"kl_reference_{estimator}"
        numbers[name] = sequence_sum(kl_BR, batch.mask_BR).mean().item()
        numbers[f"{name}_per_token"] = kl_BR[batch.mask_BR].mean().item()
    return numbers


def _mismatch(batch: Round, old_logprobs_BR: Tensor) -> dict[str, float]:
    found = sampler_mismatch(old_logprobs_BR, batch.sampler_logprobs_BR, batch.mask_BR)
    return {
        "mismatch_k1": found.k1,
        "mismatch_k3": found.k3,
        "mismatch_ess": found.effective_sample_size,
        "mismatch_largest": found.largest_difference,
    }


def of_targets(batch: Round, targets: Targets, values_BR: Tensor) -> Numbers:
    """What the updates aim at, and how much of it the critic foretold."""
    mask_BR, returns_BR = batch.mask_BR, targets.returns_BR
    return {
        **_spread("reward", sequence_sum(targets.token_rewards_BR, mask_BR)),
        "explained_variance": explained_variance(returns_BR, values_BR, mask_BR).item(),
        "value_mean": values_BR[mask_BR].mean().item(),
        "return_mean": returns_BR[mask_BR].mean().item(),
    }


def of_updates(policy: Updates | None, critic: Updates) -> Numbers:
    """What the updates came to; a round that does not train the policy has none of its numbers."""
    numbers: Numbers = {
        "updates": len(critic.gradient_norms),
        "value_loss": critic.means["loss"],
        "value_clip_fraction": critic.means["clip_fraction"],
        "gradient_norm_critic": mean(critic.gradient_norms),
        "learning_rate_critic": critic.learning_rate,
    }
    if policy is None:
        return numbers
    return numbers | {
        "policy_loss": policy.means["loss"],
        "kl_update": policy.means["approx_kl"],
        "clip_fraction": policy.means["clip_fraction"],
        "dual_clip_fraction": policy.means["dual_clip_fraction"],
        "ratio_mean": policy.means["ratio_mean"],
        "ratio_variance": policy.means["ratio_variance"],
        "gradient_norm_policy": mean(policy.gradient_norms),
        "learning_rate_policy": policy.learning_rate,
    }
