"""The losses of PPO and the numbers that tell whether an update was sane.

Shapes: B rollouts, T response tokens, N the tokens that count. Every loss first picks the N tokens under
the mask, so that padding cannot reach a sum, a gradient or the order of an addition. Losses are sums over
these tokens divided by `token_count`, the number of tokens of the WHOLE minibatch: then the gradients of
micro-batches add up to the gradient of the whole. Diagnostics are sums for the same reason: add those of
the micro-batches, then ask for the means.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

import torch
from torch import Tensor

# exp overflows float32 at 88, and one infinite ratio times a zero advantage is a NaN in every weight.
# At 20 nats the ratio is 5e8, beyond any clip range, so holding it there changes no decision.
LOG_RATIO_LIMIT = 20.0


@dataclass(frozen=True)
class PolicyDiagnostics:
    """Sums over tokens; with ratio = new / old. `a + b` is the diagnostics of both together."""

    tokens: Tensor
    loss: Tensor  # of the objective, before division by token_count
    squared_log_ratio: Tensor
    k3: Tensor
    clipped: Tensor  # tokens whose gradient the ratio clip removed
    dual_clipped: Tensor  # tokens whose gradient the dual clip removed
    excess_ratio: Tensor  # ratio - 1: near 1 the moments of the ratio itself would cancel
    squared_excess_ratio: Tensor

    def __add__(self, other: PolicyDiagnostics) -> PolicyDiagnostics:
        return PolicyDiagnostics(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def scaled(self, weight: float) -> PolicyDiagnostics:
        """Every sum times `weight`: 0 for rows that another rank counts."""
        return PolicyDiagnostics(*(a * weight for a in astuple(self)))

    def means(self) -> dict[str, float]:
        """Means per token by name; empty when no token counted."""
        n = self.tokens.item()
        if not n:
            return {}
        excess = self.excess_ratio.item() / n
        return {
            "loss": self.loss.item() / n,
            "approx_kl": 0.5 * self.squared_log_ratio.item() / n,
            "approx_kl_k3": self.k3.item() / n,
            "clip_fraction": self.clipped.item() / n,
            "dual_clip_fraction": self.dual_clipped.item() / n,
            "ratio_mean": 1 + excess,
            "ratio_variance": max(0.0, self.squared_excess_ratio.item() / n - excess**2),
        }


@dataclass(frozen=True)
class ValueDiagnostics:
    """Sums over tokens. `a + b` is the diagnostics of both together."""

    tokens: Tensor
    loss: Tensor
    clipped: Tensor  # tokens whose gradient the value clip removed

    def __add__(self, other: ValueDiagnostics) -> ValueDiagnostics:
        return ValueDiagnostics(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def scaled(self, weight: float) -> ValueDiagnostics:
        """Every sum times `weight`: 0 for rows that another rank counts."""
        return ValueDiagnostics(*(a * weight for a in astuple(self)))

    def means(self) -> dict[str, float]:
        """Means per token by name; empty when no token counted."""
        n = self.tokens.item()
        return {"loss": self.loss.item() / n, "clip_fraction": self.clipped.item() / n} if n else {}


@dataclass(frozen=True)
class SamplerMismatch:
    """How far the trainer's log-probs are from the sampler's for the same weights; means over tokens."""

    k1: float  # nats; KL(sampler || trainer)
    k3: float  # nats; the same, never negative
    effective_sample_size: float  # share of the tokens that the weighted batch is worth, in (0, 1]
    largest_difference: float  # nats; the largest |log-prob difference|


def policy_loss(
    new_logprobs_BT: Tensor,
    old_logprobs_BT: Tensor,
    advantages_BT: Tensor,
    mask_BT: Tensor,
    clip_range: float,
    dual_clip: float,
    weights_BT: Tensor | None = None,
    token_count: float | None = None,
) -> tuple[Tensor, PolicyDiagnostics]:
    """The clipped surrogate loss of PPO, to be minimised.

    L = -1/n * sum_t w_t * max(min(r_t A_t, clip(r_t, 1 - eps, 1 + eps) A_t), c A_t if A_t < 0)
    with r = new / old, eps = `clip_range`, c = `dual_clip` (0 is off, else above 1), w = `weights_BT` (1 by
    default; see `importance_weights`), n = `token_count` (the valid tokens given here by default).
    Sources: Schulman et al. 2017 (arXiv 1707.06347), eq. 7; dual clip: Ye et al. 2019 (arXiv 1912.09729),
    eq. 5.
    """
    advantages_N = advantages_BT[mask_BT]
    log_ratio_N = new_logprobs_BT[mask_BT] - old_logprobs_BT[mask_BT]
    ratio_N = log_ratio_N.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()

    surrogate_N = ratio_N * advantages_N
    clipped_N = ratio_N.clamp(1 - clip_range, 1 + clip_range) * advantages_N
    objective_N = torch.minimum(surrogate_N, clipped_N)
    dual_clipped_N = (advantages_N < 0) & (objective_N < dual_clip * advantages_N) & (dual_clip > 0)
    objective_N = torch.where(dual_clipped_N, dual_clip * advantages_N, objective_N)
    if weights_BT is not None:
        objective_N = weights_BT[mask_BT].detach() * objective_N

    loss = -objective_N.sum()
    diagnostics = _policy_diagnostics(loss, log_ratio_N, clipped_N < surrogate_N, dual_clipped_N)
    return loss / _count(mask_BT, token_count), diagnostics


def value_loss(
    new_values_BT: Tensor,
    old_values_BT: Tensor,
    returns_BT: Tensor,
    mask_BT: Tensor,
    clip_range: float,
    token_count: float | None = None,
) -> tuple[Tensor, ValueDiagnostics]:
    """Half the squared error of the critic, with the new value held near the old one.

    L = 1/n * sum_t 1/2 * max((V_t - R_t)^2, (V_old_t + clip(V_t - V_old_t, +/- eps) - R_t)^2), with
    eps = `clip_range` (0 is off) and n = `token_count`.
    Source: openai/lm-human-preferences, `train_policy.py`; N+ study (arXiv 2403.17031), section 5.
    """
    new_N, old_N, returns_N = new_values_BT[mask_BT], old_values_BT[mask_BT], returns_BT[mask_BT]
    limit = clip_range or torch.inf
    move_N = new_N - old_N
    error_N = (new_N - returns_N) ** 2
    clipped_error_N = (old_N + move_N.clamp(-limit, limit) - returns_N) ** 2
    # Within the limit the two are the same but for rounding, which must not count as clipping.
    clips_N = (clipped_error_N > error_N) & (move_N.abs() > limit)
    loss = 0.5 * torch.where(clips_N, clipped_error_N, error_N).sum()
    diagnostics = ValueDiagnostics(*(x.detach() for x in (mask_BT.sum(), loss, clips_N.sum())))
    return loss / _count(mask_BT, token_count), diagnostics


def token_mean(x_BT: Tensor, mask_BT: Tensor, token_count: float | None = None) -> Tensor:
    """Sum over the valid tokens divided by `token_count` (by default, their number)."""
    return x_BT[mask_BT].sum() / _count(mask_BT, token_count)


def importance_weights(
    old_logprobs_BT: Tensor, sampler_logprobs_BT: Tensor, mask_BT: Tensor, cap: float
) -> Tensor:
    """Weights that make up for a sampler whose log-probs differ from the trainer's: min(old / sampler, cap).

    One per token (a product over a sequence explodes with its length), detached, 1 at padding.
    Source: truncated importance sampling, Yao et al. 2025, fengyao.notion.site/off-policy-rl.
    """
    log_ratio_BT = torch.where(mask_BT, old_logprobs_BT - sampler_logprobs_BT, 0.0).detach()
    return log_ratio_BT.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp().clamp(max=cap)


def sampler_mismatch(
    old_logprobs_BT: Tensor, sampler_logprobs_BT: Tensor, mask_BT: Tensor
) -> SamplerMismatch:
    """Compare the trainer's log-probs with the sampler's; ValueError when no token is valid.

    With rho = old / sampler: k1 = -log rho, k3 = rho - 1 - log rho, and the effective sample size
    (sum rho)^2 / (N sum rho^2).
    """
    log_rho_N = (old_logprobs_BT[mask_BT] - sampler_logprobs_BT[mask_BT]).detach()
    if not len(log_rho_N):
        raise ValueError("sampler_mismatch: no token is valid")
    rho_N = log_rho_N.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    return SamplerMismatch(
        k1=-log_rho_N.mean().item(),
        k3=(rho_N - 1 - log_rho_N).mean().item(),
        effective_sample_size=(rho_N.mean() ** 2 / (rho_N**2).mean()).item(),
        largest_difference=log_rho_N.abs().max().item(),
    )


def _policy_diagnostics(
    loss: Tensor, log_ratio_N: Tensor, clipped_N: Tensor, dual_clipped_N: Tensor
) -> PolicyDiagnostics:
    log_ratio_N = log_ratio_N.detach()
    excess_N = torch.expm1(log_ratio_N.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))
    return PolicyDiagnostics(
        tokens=log_ratio_N.new_tensor(len(log_ratio_N)),
        loss=loss.detach(),
        squared_log_ratio=(log_ratio_N**2).sum(),
        k3=(excess_N - log_ratio_N).sum(),
        clipped=clipped_N.sum(),
        dual_clipped=dual_clipped_N.sum(),
        excess_ratio=excess_N.sum(),
        squared_excess_ratio=(excess_N**2).sum(),
    )


def _count(mask_BT: Tensor, token_count: float | None) -> float:
    count = int(mask_BT.sum()) if token_count is None else token_count
    if count <= 0:
        raise ValueError(f"token_count: {count} tokens bear no loss; leave the minibatch out")
    return count
