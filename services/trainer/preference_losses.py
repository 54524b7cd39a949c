"""Learning from preferences without a reward model: the losses, one function each, and their table.

Shapes: P pairs. All log-probs are in nats. `delta_P` is the log-ratio of policy to reference of the better
response less that of the other; `..._mean_P` is a mean per token, everything else a sum over the tokens that
bear loss. `beta` is the strength of the implicit reward, beta times the log-ratio. Every function gives
loss_P, one number per pair.

Adding a loss is one function and one row of PREFERENCE_LOSSES.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# A mean log-prob of 0 has infinite odds, and an infinite loss a gradient of NaN.
LARGEST_MEAN_LOGPROB = -1e-7


def dpo(delta_P: Tensor, beta: float, margin_P: Tensor | float = 0.0) -> Tensor:
    """-log sigmoid(beta delta - m): the better response has to win by m = `margin_P`.

    Sources: Rafailov et al. 2023 (arXiv 2305.18290), eq. 7; margin: Amini et al. 2024 (arXiv 2402.10571).
    """
    return -F.logsigmoid(beta * delta_P - margin_P)


def soft_dpo(
    delta_P: Tensor, probability_P: Tensor | float, beta: float, margin_P: Tensor | float = 0.0
) -> Tensor:
    """-p log sigmoid(beta delta - m) - (1 - p) log sigmoid(-beta delta - m), p = `probability_P` the label.

    Least, without a margin, where beta delta is the log-odds of p. Source: Mitchell 2023, "A note on DPO
    with noisy preferences and relationship to IPO", with p for 1 - eps.
    """
    first_P, second_P = F.logsigmoid(beta * delta_P - margin_P), F.logsigmoid(-beta * delta_P - margin_P)
    return -(probability_P * first_P + (1 - probability_P) * second_P)


def cdpo(delta_P: Tensor, beta: float, label_smoothing: float) -> Tensor:
    """Conservative DPO: every label is taken to be wrong with probability `label_smoothing`.

    Source: Mitchell 2023, as for `soft_dpo`.
    """
    return soft_dpo(delta_P, 1 - label_smoothing, beta)


def robust_dpo(delta_P: Tensor, beta: float, label_smoothing: float) -> Tensor:
    """(-(1 - eps) log sigmoid(beta delta) + eps log sigmoid(-beta delta)) / (1 - 2 eps); may be negative.

    Where labels are flipped with probability eps = `label_smoothing` < 1/2, its mean is the DPO loss of the
    true ones. Source: Chowdhury et al. 2024 (arXiv 2403.00409).
    """
    kept_P, flipped_P = F.logsigmoid(beta * delta_P), F.logsigmoid(-beta * delta_P)
    return (label_smoothing * flipped_P - (1 - label_smoothing) * kept_P) / (1 - 2 * label_smoothing)


def gdpo(delta_P: Tensor, probability_P: Tensor | float, beta: float) -> Tensor:
    """-log sigmoid(beta (2p - 1) delta): a label near one half moves little, and one half nothing.

    Source: Furuta et al. 2024 (arXiv 2409.06691), "geometric-averaged" DPO.
    """
    return -F.logsigmoid(beta * (2 * probability_P - 1) * delta_P)


def hinge(delta_P: Tensor, beta: float) -> Tensor:
    """max(0, 1 - beta delta). Source: Zhao et al. 2023 (arXiv 2305.10425), with the reference's log-ratio."""
    return (1 - beta * delta_P).relu()


def ipo(delta_P: Tensor, beta: float) -> Tensor:
    """(delta - 1 / (2 beta))^2: a margin to be met, not to be pushed ever further.

    Of sums it is the paper's; of means per token (`ipo_length_normalised`) it is what TRL's DPOTrainer
    computes. Source: Azar et al. 2023 (arXiv 2310.12036), eq. 17 with tau = beta.
    """
    return (delta_P - 1 / (2 * beta)) ** 2


def kto(
    chosen_log_ratio_P: Tensor,
    rejected_log_ratio_P: Tensor,
    baseline: Tensor | float,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """Mean of w_d (1 - sigmoid(beta (r_chosen - z))) and w_u (1 - sigmoid(beta (z - r_rejected))).

    z = `baseline` from `kto_baseline`. Both responses of a pair count as examples of their own. Source:
    Ethayarajh et al. 2024 (arXiv 2402.01306).
    """
    desirable_P = desirable_weight * torch.sigmoid(beta * (baseline - chosen_log_ratio_P))
    undesirable_P = undesirable_weight * torch.sigmoid(beta * (rejected_log_ratio_P - baseline))
    return (desirable_P + undesirable_P) / 2


def kto_baseline(mismatched_log_ratio_N: Tensor) -> Tensor:
    """z: the mean log-ratio of responses to prompts they do not answer, at least 0; no gradient; a scalar.

    Source: Ethayarajh et al. 2024 (arXiv 2402.01306).
    """
    return mismatched_log_ratio_N.detach().mean().clamp(min=0)


def orpo(chosen_mean_P: Tensor, rejected_mean_P: Tensor, beta: float) -> Tensor:
    """-a_w - beta log sigmoid(log odds_w - log odds_l), odds = e^a / (1 - e^a), a = mean log-prob.

    The first term is over the chosen RESPONSE only. Source: Hong et al. 2024 (arXiv 2403.07691), eq. 6 and
    7 with lambda = beta.
    """
    log_odds_P = _log_odds(chosen_mean_P) - _log_odds(rejected_mean_P)
    return chosen_nll(chosen_mean_P) - beta * F.logsigmoid(log_odds_P)


def _log_odds(mean_P: Tensor) -> Tensor:
    mean_P = mean_P.clamp(max=LARGEST_MEAN_LOGPROB)
    return mean_P - (-torch.expm1(mean_P)).log()


def simpo(chosen_mean_P: Tensor, rejected_mean_P: Tensor, beta: float, margin: float) -> Tensor:
    """-log sigmoid(beta (a_w - a_l) - margin). Source: Meng et al. 2024 (arXiv 2405.14734), eq. 6."""
    return -F.logsigmoid(beta * (chosen_mean_P - rejected_mean_P) - margin)


def chosen_nll(chosen_mean_P: Tensor) -> Tensor:
    """The better response's negative log-likelihood per token: what keeps it likely while margins grow.

    Source: Pang et al. 2024 (arXiv 2404.19733), eq. 1.
    """
    return -chosen_mean_P


@dataclass(frozen=True)
class Pairs:
    """What the losses see of P pairs: sums over the tokens that bear loss."""

    chosen_P: Tensor  # log-probs under the policy
    rejected_P: Tensor
    reference_chosen_P: Tensor  # under the reference; 0 where the loss has none
    reference_rejected_P: Tensor
    chosen_tokens_P: Tensor  # how many were summed
    rejected_tokens_P: Tensor
    probability_P: Tensor  # that the chosen one is better, from 0.5 to 1
    margin_P: Tensor
    baseline: Tensor | float = 0.0  # of KTO

    @property
    def chosen_log_ratio_P(self) -> Tensor:
        """log policy - log reference of the better response."""
        return self.chosen_P - self.reference_chosen_P

    @property
    def rejected_log_ratio_P(self) -> Tensor:
        """log policy - log reference of the other response."""
        return self.rejected_P - self.reference_rejected_P

    @property
    def delta_P(self) -> Tensor:
        """Difference of the two log-ratios."""
        return self.chosen_log_ratio_P - self.rejected_log_ratio_P

    @property
    def delta_mean_P(self) -> Tensor:
        """Difference of the two log-ratios per token."""
        chosen_P = self.chosen_log_ratio_P / self.chosen_tokens_P
        return chosen_P - self.rejected_log_ratio_P / self.rejected_tokens_P

    @property
    def means_P(self) -> tuple[Tensor, Tensor]:
        """Mean log-prob per token of the better response and of the other."""
        return self.chosen_P / self.chosen_tokens_P, self.rejected_P / self.rejected_tokens_P


@dataclass(frozen=True)
class Coefficients:
    """The numbers that losses take beside the pairs; each loss its own."""

    beta: float
    label_smoothing: float = 0.0
    simpo_margin: float = 0.0
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    nll: float = 0.0


@dataclass(frozen=True)
class PreferenceLoss:
    """A loss by name: what it computes and what it asks for."""

    of: Callable[[Pairs, Coefficients], Tensor]
    reference: bool = True  # compares with a reference
    averaged: bool = False  # counts log-probs per token, so that length is no merit
    soft: bool = False  # takes the label's probability; the others take the better side as certain
    margin: bool = False  # takes a pair's margin
    smoothed: bool = False  # takes label_smoothing
    mismatched: bool = False  # needs `kto_baseline`
    nll: bool = True  # may have `chosen_nll` added; ORPO has it built in


PREFERENCE_LOSSES: dict[str, PreferenceLoss] = {
    "dpo": PreferenceLoss(lambda p, c: dpo(p.delta_P, c.beta, p.margin_P), margin=True),
    "dpo_length_normalised": PreferenceLoss(
        lambda p, c: dpo(p.delta_mean_P, c.beta, p.margin_P), averaged=True, margin=True
    ),
    "soft_dpo": PreferenceLoss(
        lambda p, c: soft_dpo(p.delta_P, p.probability_P, c.beta, p.margin_P), soft=True, margin=True
    ),
    "cdpo": PreferenceLoss(lambda p, c: cdpo(p.delta_P, c.beta, c.label_smoothing), smoothed=True),
    "robust_dpo": PreferenceLoss(
        lambda p, c: robust_dpo(p.delta_P, c.beta, c.label_smoothing), smoothed=True
    ),
    "gdpo": PreferenceLoss(lambda p, c: gdpo(p.delta_P, p.probability_P, c.beta), soft=True),
    "hinge": PreferenceLoss(lambda p, c: hinge(p.delta_P, c.beta)),
    "ipo": PreferenceLoss(lambda p, c: ipo(p.delta_P, c.beta)),
    "ipo_length_normalised": PreferenceLoss(lambda p, c: ipo(p.delta_mean_P, c.beta), averaged=True),
    "kto": PreferenceLoss(
        lambda p, c: kto(
            p.chosen_log_ratio_P,
            p.rejected_log_ratio_P,
            p.baseline,
            c.beta,
            c.desirable_weight,
            c.undesirable_weight,
        ),
        mismatched=True,
    ),
    "orpo": PreferenceLoss(lambda p, c: orpo(*p.means_P, c.beta), reference=False, averaged=True, nll=False),
    "simpo": PreferenceLoss(
        lambda p, c: simpo(*p.means_P, c.beta, c.simpo_margin), reference=False, averaged=True
    ),
}


def preference_loss(loss: PreferenceLoss, pairs: Pairs, coefficients: Coefficients) -> Tensor:
    """loss_P of a row of the table, with the likelihood term where it has a coefficient."""
    loss_P = loss.of(pairs, coefficients)
    return loss_P + coefficients.nll * chosen_nll(pairs.means_P[0]) if coefficients.nll else loss_P


def implicit_rewards(loss: PreferenceLoss, pairs: Pairs, beta: float) -> tuple[Tensor, Tensor]:
    """(chosen_P, rejected_P): beta times the log-ratio, or the log-prob where the loss has no reference.

    Per token where the loss counts so.
    """
    chosen_P, rejected_P = pairs.chosen_log_ratio_P, pairs.rejected_log_ratio_P
    if loss.averaged:
        chosen_P, rejected_P = chosen_P / pairs.chosen_tokens_P, rejected_P / pairs.rejected_tokens_P
    return beta * chosen_P, beta * rejected_P
