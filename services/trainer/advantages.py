"""From scores to advantages: what PPO learns from, token by token.

Shapes: B rollouts, T response tokens, N anything flat. `mask_BT` is True on the tokens of a response. What
lies under a False mask is never read, NaN or not: padding leaves every result as if it were not there.

    scores_B ─► missing_end_penalty ─► token_rewards ─► gae ─► whiten
                        kl_estimate ──────┘              └─► returns_BT, for the critic
"""

import torch
from torch import Tensor

WHITENING_EPSILON = 1e-8


def kl_estimate(
    policy_logprobs: Tensor,
    reference_logprobs: Tensor,
    estimator: str,
    log_ratio_limit: float = torch.inf,
    estimate_limit: float = torch.inf,
) -> Tensor:
    """KL(policy || reference) in nats, estimated per token from samples of the policy.

    With r = reference / policy: k1 = -log r (unbiased), k2 = (log r)^2 / 2 (biased, >= 0) and
    k3 = (r - 1) - log r (unbiased, >= 0). Any shape. The limits hold the log-ratio and the estimate
    within +/- themselves; by default they are off.
    Source: J. Schulman, "Approximating KL Divergence" (2020), joschu.net/blog/kl-approx.html.

    >>> kl_estimate(torch.tensor(-1.0), torch.tensor(-1.5), "k1")
    tensor(0.5000)
    """
    log_ratio = (reference_logprobs - policy_logprobs).clamp(-log_ratio_limit, log_ratio_limit)
    if estimator == "k1":
        estimate = -log_ratio
    elif estimator == "k2":
        estimate = 0.5 * log_ratio**2
    elif estimator == "k3":
        estimate = torch.expm1(log_ratio) - log_ratio
    else:
        raise ValueError(f"kl_estimator: {estimator!r} is not one of k1, k2, k3")
    return estimate.clamp(-estimate_limit, estimate_limit)


def sequence_sum(x_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Sum over the tokens of each response, shape B; of a `kl_estimate`, that is nats per sequence."""
    # cumsum adds from left to right, so that more padding cannot regroup the additions as sum would.
    return torch.where(mask_BT, x_BT, 0.0).cumsum(-1)[:, -1]


def missing_end_penalty(scores_B: Tensor, has_end_B: Tensor, penalty: float) -> Tensor:
    """Take `penalty` from the score of a response that did not end itself.

    Source: TRL's `missing_eos_penalty`; the N+ study (arXiv 2403.17031) replaces the score instead.
    """
    return torch.where(has_end_B, scores_B, scores_B - penalty)


def token_rewards(scores_B: Tensor, kl_BT: Tensor, mask_BT: Tensor, kl_coefficient: float) -> Tensor:
    """Reward of every token: minus its share of the KL, and at the last one the score; 0 at padding.

    r_t = -beta * kl_t + [t is the last token] * score, so that a row sums to score - beta * sequence KL.
    Source: Ziegler et al. 2019 (arXiv 1909.08593), section 2.2; Ouyang et al. 2022 (arXiv 2203.02155), eq. 2.

    >>> token_rewards(torch.tensor([1.5]), torch.tensor([[0.2, 0.4]]), torch.tensor([[True, True]]), 0.05)
    tensor([[-0.0100,  1.4800]])
    """
    tokens_from_here_BT = mask_BT.flip(-1).cumsum(-1).flip(-1)
    is_last_BT = mask_BT & (tokens_from_here_BT == 1)
    penalty_BT = torch.where(mask_BT, -kl_coefficient * kl_BT, 0.0)
    return penalty_BT + torch.where(is_last_BT, scores_B.unsqueeze(-1), 0.0)


def gae(
    rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation: (advantages_BT, returns_BT), 0 where the mask is False.

    delta_t = r_t + gamma * V_{t+1} - V_t,  A_t = delta_t + gamma * lam * A_{t+1},  R_t = A_t + V_t.
    A masked gap inside a response (a tool's output, say) is stepped over: t + 1 is the next token that
    counts. After the last one V and A are 0.
    Source: Schulman et al. 2015 (arXiv 1506.02438), eq. 11 and 16.
    """
    advantages_BT = torch.zeros_like(values_BT)
    next_value_B = torch.zeros_like(values_BT[:, 0])
    next_advantage_B = torch.zeros_like(values_BT[:, 0])
    for t in reversed(range(values_BT.shape[1])):
        valid_B = mask_BT[:, t]
        delta_B = rewards_BT[:, t] + gamma * next_value_B - values_BT[:, t]
        advantage_B = delta_B + gamma * lam * next_advantage_B
        advantages_BT[:, t] = torch.where(valid_B, advantage_B, 0.0)
        next_value_B = torch.where(valid_B, values_BT[:, t], next_value_B)
        next_advantage_B = torch.where(valid_B, advantage_B, next_advantage_B)
    return advantages_BT, torch.where(mask_BT, advantages_BT + values_BT, 0.0)


def whiten(x_BT: Tensor, mask_BT: Tensor, shift_mean: bool = True) -> Tensor:
    """Scale the valid entries to variance 1 and, with `shift_mean`, shift them to mean 0; 0 at padding.

    The variance is the biased one, as in Ziegler et al. and the N+ study (arXiv 2403.17031); TRL divides
    by n - 1. Entries that differ by no more than rounding carry no signal and are not blown up into one:
    they come back as 0, or, when the mean is kept, unscaled. ValueError when nothing is valid.
    """
    valid_N = x_BT[mask_BT]
    if not len(valid_N):
        raise ValueError("whiten: no entry is valid")
    mean, variance = valid_N.mean(), valid_N.var(correction=0)
    centred_BT = x_BT - mean
    if variance.sqrt() <= _rounding(valid_N):
        whitened_BT = torch.zeros_like(x_BT) if shift_mean else x_BT
    else:
        whitened_BT = centred_BT * torch.rsqrt(variance + WHITENING_EPSILON)
        whitened_BT = whitened_BT if shift_mean else whitened_BT + mean
    return torch.where(mask_BT, whitened_BT, 0.0)


def explained_variance(returns_BT: Tensor, values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns) over the valid tokens.

    1 is a perfect critic, 0 one that knows no more than the mean; NaN when the returns do not vary.
    """
    returns_N, values_N = returns_BT[mask_BT], values_BT[mask_BT]
    if not len(returns_N) or returns_N.std(correction=0) <= _rounding(returns_N):
        return returns_N.new_tensor(torch.nan)
    return 1 - (returns_N - values_N).var(correction=0) / returns_N.var(correction=0)


def fit_normalisation(scores_N: Tensor, target_mean: float, target_stddev: float) -> tuple[float, float]:
    """(gain, bias) such that gain * scores + bias has the target mean and (biased) standard deviation.

    gain = target_stddev / stddev, bias = target_mean - gain * mean. ValueError when a score is not finite
    or the scores do not vary. Source: Ziegler et al. 2019 (arXiv 1909.08593), section 2.1.
    """
    scores_N = scores_N.double()
    if not len(scores_N) or not scores_N.isfinite().all():
        raise ValueError("fit_normalisation: needs at least one score, all of them finite")
    stddev = scores_N.std(correction=0)
    if stddev <= _rounding(scores_N):
        raise ValueError(f"fit_normalisation: the {len(scores_N)} scores do not vary (stddev {stddev:.3g})")
    gain = target_stddev / stddev
    return gain.item(), (target_mean - gain * scores_N.mean()).item()


def length_slope(scores_N: Tensor, lengths_N: Tensor) -> float:
    """What one token more adds to a score on average: cov(score, length) / var(length), least squares.

    score - slope * length no longer correlates with length on these samples. ValueError where lengths do not
    vary. Source: the linear form of length control (Singhal et al. 2023, arXiv 2310.03716, measure it).
    """
    lengths_N = lengths_N.double()
    if not len(lengths_N) or lengths_N.std(correction=0) <= _rounding(lengths_N):
        raise ValueError(f"length_slope: the {len(lengths_N)} lengths do not vary")
    centred_N = lengths_N - lengths_N.mean()
    return (centred_N @ scores_N.double() / (centred_N @ centred_N)).item()


def _rounding(x_N: Tensor) -> Tensor:
    """A spread that rounding alone can give: some hundred units in the last place of the largest entry."""
    return 100 * torch.finfo(x_N.dtype).eps * x_N.abs().max()
