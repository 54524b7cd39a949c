"""The numbers of a preference step, as sums that add up over micro-batches. metrics.py explains the names."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from services.trainer.advantages import kl_estimate, sequence_sum
from services.trainer.bradley_terry import ordered_right
from services.trainer.ppo_loss import LOG_RATIO_LIMIT
from services.trainer.preference_losses import Pairs


@dataclass
class Measured:
    """Sums over pairs, and how many there were of what."""

    pairs: int = 0
    weight: float = 0.0
    loss: float = 0.0  # each pair's times its weight
    right: float = 0.0
    decided: int = 0
    lead: float = 0.0
    reward_chosen: float = 0.0
    reward_rejected: float = 0.0
    logprob_chosen: float = 0.0
    logprob_rejected: float = 0.0
    loss_tokens: int = 0
    k1: float = 0.0
    k3: float = 0.0
    baseline: float = 0.0  # times the pairs it was taken for

    def add(self, other: Measured) -> None:
        """Counts another part's sums in."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def numbers(self, *, compares: bool, mismatches: bool) -> dict[str, float | None]:
        """Means by name; without a reference there is no KL, and but for KTO no baseline."""
        sides = 2 * self.pairs
        return {
            "comparisons": self.pairs,
            "loss_tokens": self.loss_tokens,
            "loss": self.loss / self.weight,
            "accuracy": self.right / self.decided if self.decided else None,
            "margin_mean": self.lead / self.decided if self.decided else None,
            "reward_chosen": self.reward_chosen / self.pairs,
            "reward_rejected": self.reward_rejected / self.pairs,
            "logprob_chosen": self.logprob_chosen / self.pairs,
            "logprob_rejected": self.logprob_rejected / self.pairs,
            "kl_implicit_k1": self.k1 / sides if compares else None,
            "kl_implicit_k3": self.k3 / sides if compares else None,
            "kto_baseline": self.baseline / self.pairs if mismatches else None,
        }


def measure(
    pairs: Pairs,
    weighted_loss: Tensor,
    weight: float,
    rewards: tuple[Tensor, Tensor],
    logprobs: tuple[Tensor, Tensor, Tensor],
) -> Measured:
    """One micro-batch's sums. `rewards` are (chosen_P, rejected_P), `logprobs` those of `masked_sums`."""
    chosen_P, rejected_P = rewards
    policy_BR, reference_BR, bears_BR = logprobs
    lead_P = chosen_P - rejected_P
    right, decided = ordered_right(lead_P, pairs.probability_P)

    def kl(estimator: str, limit: float) -> float:
        return sequence_sum(kl_estimate(policy_BR, reference_BR, estimator, limit), bears_BR).sum().item()

    return Measured(
        pairs=len(lead_P),
        weight=weight,
        loss=weighted_loss.item(),
        right=right,
        decided=decided,
        lead=lead_P[pairs.probability_P != 0.5].sum().item(),
        reward_chosen=chosen_P.sum().item(),
        reward_rejected=rejected_P.sum().item(),
        logprob_chosen=pairs.chosen_P.sum().item(),
        logprob_rejected=pairs.rejected_P.sum().item(),
        loss_tokens=int(bears_BR.sum()),
        k1=kl("k1", float("inf")),
        k3=kl("k3", LOG_RATIO_LIMIT),
        baseline=float(pairs.baseline) * len(lead_P),
    )
