"""Learning a reward from comparisons: P(first is better) = sigmoid(r_first - r_second).

Shapes: K responses of one prompt, P comparisons between them.
"""

import torch.nn.functional as F
from torch import Tensor


def pair_loss(delta_P: Tensor, probability_P: Tensor | float = 1.0, margin_P: Tensor | float = 0.0) -> Tensor:
    """Cross-entropy of each comparison, in nats.

    L = -p log sigmoid(delta - m) - (1 - p) log sigmoid(-delta - m), where p = `probability_P` is the label
    (1: the first is better, 0.5: a tie) and the better side has to win by m = `margin_P`. Exchanging the
    two sides and p for 1 - p changes nothing.
    Sources: Ouyang et al. 2022 (arXiv 2203.02155), eq. 1; margin: Touvron et al. 2023 (arXiv 2307.09288),
    eq. 2.
    """
    # logsigmoid stays exact where log(sigmoid(x)) is already log(0).
    first_P, second_P = F.logsigmoid(delta_P - margin_P), F.logsigmoid(-delta_P - margin_P)
    return -(probability_P * first_P + (1 - probability_P) * second_P)


def group_loss(
    rewards_K: Tensor,
    first_P: Tensor,
    second_P: Tensor,
    probability_P: Tensor | float = 1.0,
    margin_P: Tensor | float = 0.0,
    centering_coefficient: float = 0.0,
) -> Tensor:
    """Mean loss over all comparisons of ONE prompt, from one reward per response; a scalar.

    `first_P` and `second_P` index into `rewards_K`. The mean keeps every prompt at the same weight however
    many of its responses were compared. `centering_coefficient` times the mean of (r_first + r_second)^2 is
    added: it pulls rewards to 0, which the comparisons alone leave free.
    Sources: Ouyang et al. 2022 (arXiv 2203.02155), eq. 1; Eisenstein et al. 2023 (arXiv 2312.09244), eq. 2.
    """
    rewards_first_P, rewards_second_P = rewards_K[first_P], rewards_K[second_P]
    preference = pair_loss(rewards_first_P - rewards_second_P, probability_P, margin_P).mean()
    centering = ((rewards_first_P + rewards_second_P) ** 2).mean()
    return preference + centering_coefficient * centering


def ordered_right(delta_P: Tensor, probability_P: Tensor) -> tuple[float, int]:
    """(comparisons that the rewards order as the labels do, comparisons that have a better side).

    Labels of 0.5 have none and are not counted; equal rewards are half right.
    """
    decided_P = probability_P != 0.5
    delta_P, probability_P = delta_P[decided_P], probability_P[decided_P]
    agrees_P = (delta_P.sign() * (probability_P - 0.5).sign() + 1) / 2
    return agrees_P.sum().item(), len(delta_P)
