"""One round of PPO, as prose.

    rollouts ─► door ─► old log-probs ∥ values ─► KL, budget ─► rewards ─► advantages ─► policy ∥ critic

Shapes: B rollouts, R response tokens. Sources: Schulman et al. 2017 (arXiv 1707.06347); Ziegler et al. 2019
(arXiv 1909.08593); the N+ study of implementation details (arXiv 2403.17031).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from services.errors import PreconditionError
from services.models import LoadedCausal
from services.progress import ProgressFeed
from services.trainer import ppo_metrics
from services.trainer.advantages import gae, kl_estimate, missing_end_penalty, token_rewards, whiten
from services.trainer.device import Compute
from services.trainer.door import Door
from services.trainer.kl_control import AdaptiveKl, FixedKl, KlBudget
from services.trainer.loading import Critic
from services.trainer.metrics import measured
from services.trainer.ppo_critic import CriticHalf
from services.trainer.ppo_loss import LOG_RATIO_LIMIT, importance_weights
from services.trainer.ppo_policy import PolicyHalf, Updates
from services.trainer.records import Excluded, ScoredRollout, StagePlan, StepOutcome
from services.trainer.rounds import Round, Schedule, Targets, round_of, schedule_of
from services.trainer.settings import PpoSettings
from services.trainer.stage import Stage
from services.weights import ModelVersion


class PpoStage(Stage):
    """A policy and its critic, trained one round a step."""

    kind = "ppo"

    def __init__(
        self,
        plan: StagePlan,
        settings: PpoSettings,
        policy: LoadedCausal,
        critic: Critic,
        version: ModelVersion,
        compute: Compute,
    ) -> None:
        super().__init__(plan, version, compute)
        self.settings, self.loaded = settings, policy
        self.policy = PolicyHalf(policy, settings, compute)
        self.critic = CriticHalf(critic.loaded, settings, compute)
        self.learners = {"policy": self.policy.learner, "critic": self.critic.learner}
        self.kl = kl_controller(settings)
        self.budget = KlBudget(settings.kl_budget_soft, settings.kl_budget_hard)

    @property
    def published(self) -> Any:
        """The policy."""
        return self.loaded.model

    def own_state(self) -> dict[str, Any]:
        """The KL controller and the budget's latch; warm-up rounds follow from the step count."""
        return {"kl": self.kl.state_dict(), "budget": self.budget.state_dict()}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Puts controller and latch back."""
        self.kl.load_state_dict(state["kl"])
        self.budget.load_state_dict(state["budget"])

    def step(self, batch: Sequence[ScoredRollout], step: int, progress: ProgressFeed) -> StepOutcome:
        """One round."""
        if self.budget.stopped:
            raise PreconditionError("kl_budget_stopped", "the hard KL budget was reached: no step trains")
        kept, excluded = self.door().admit(batch)
        rollouts = round_of(kept, self.compute.device)
        schedule = self._schedule(rollouts, step)
        warming_up = step < self.settings.critic_warmup_rounds

        progress.report("old log-probs and values", 0, schedule.updates)
        (old_logprobs_BR, entropy_BR), values_BR = self.compute.both(
            lambda: self.policy.old_logprobs(rollouts, schedule, keep_first=not warming_up),
            lambda: self.critic.old_values(rollouts, schedule),
        )
        found = ppo_metrics.of_batch(rollouts, old_logprobs_BR, entropy_BR, self.settings.score_clip)
        sequence_kl = found["kl_reference_k1"]
        budget = self.budget.observe(sequence_kl)
        numbers = {**found, "kl_coefficient": self.kl.coefficient, "excluded": len(excluded)}
        if budget == "stop":
            return self._stopped(numbers, excluded)

        targets = self.targets(rollouts, old_logprobs_BR, values_BR)
        if not warming_up:  # an untrained policy's KL says nothing about the coefficient
            self.kl.update(sequence_kl, len(rollouts))
        trained = self._optimise(
            rollouts, schedule, old_logprobs_BR, values_BR, targets, warming_up, progress
        )
        numbers |= measured(ppo_metrics.of_targets(rollouts, targets, values_BR))
        numbers |= measured(ppo_metrics.of_updates(*trained))
        return StepOutcome(True, measured(numbers), excluded, budget if self._has_budget else "")

    def door(self) -> Door:
        """What rollouts have to fit now."""
        return Door(
            self.version,
            self.loaded.vocabulary_size,
            self.loaded.context_length,
            self.settings.max_missing_share,
            self.settings.score_clip,
        )

    def targets(self, batch: Round, old_logprobs_BR: Tensor, values_BR: Tensor) -> Targets:
        """From scores to advantages.

        The clip comes before the penalty, so that it cannot swallow it.
        """
        settings, mask_BR = self.settings, batch.mask_BR
        limit = settings.score_clip or float("inf")
        scores_B = missing_end_penalty(
            batch.scores_B.clamp(-limit, limit), batch.ended_B, settings.missing_end_penalty
        )
        kl_BR = reward_kl(old_logprobs_BR, batch.reference_logprobs_BR, settings.kl_estimator)
        rewards_BR = token_rewards_BR = token_rewards(scores_B, kl_BR, mask_BR, self.kl.coefficient)
        if settings.whiten_rewards:
            rewards_BR = whiten(rewards_BR, mask_BR, shift_mean=False)
        advantages_BR, returns_BR = gae(rewards_BR, values_BR, mask_BR, settings.gamma, settings.gae_lambda)
        if settings.whiten_advantages:
            advantages_BR = whiten(advantages_BR, mask_BR)
        return Targets(token_rewards_BR, advantages_BR, returns_BR)

    def _optimise(
        self,
        batch: Round,
        schedule: Schedule,
        old_logprobs_BR: Tensor,
        values_BR: Tensor,
        targets: Targets,
        warming_up: bool,
        progress: ProgressFeed,
    ) -> tuple[Updates | None, Updates]:
        """The updates of policy and critic; the policy's are None in a warm-up round."""
        cap, weights_BR = self.settings.importance_cap, None
        if cap:
            weights_BR = importance_weights(old_logprobs_BR, batch.sampler_logprobs_BR, batch.mask_BR, cap)

        def policy() -> Updates | None:
            if warming_up:
                return None
            return self.policy.optimise(
                batch, schedule, old_logprobs_BR, targets.advantages_BR, weights_BR, progress
            )

        return self.compute.both(
            policy, lambda: self.critic.optimise(batch, schedule, values_BR, targets.returns_BR)
        )

    def _schedule(self, batch: Round, step: int) -> Schedule:
        settings = self.settings
        return schedule_of(
            batch,
            settings.epochs,
            settings.minibatches,
            settings.micro_batch_size,
            self.plan.seed,
            step,
            self.compute.ranks,
        )

    def _stopped(self, numbers: dict[str, float], excluded: list[Excluded]) -> StepOutcome:
        self.policy.forget_kept()
        self.critic.forget_kept()
        return StepOutcome(False, measured(numbers), excluded, "stop")

    @property
    def _has_budget(self) -> bool:
        return bool(self.settings.kl_budget_soft or self.settings.kl_budget_hard)


def kl_controller(settings: PpoSettings) -> FixedKl:
    """The adaptive controller where a target is set, else a fixed coefficient."""
    if settings.kl_target > 0:
        return AdaptiveKl(settings.kl_coefficient, settings.kl_target, settings.kl_horizon)
    return FixedKl(settings.kl_coefficient)


def reward_kl(policy_logprobs_BR: Tensor, reference_logprobs_BR: Tensor, estimator: str) -> Tensor:
    """The per-token KL estimate that is taken from the reward.

    k2 and k3 grow with the square and the exponential of the log-ratio, which one token may make huge; for
    these it is held within the limit that the losses use.
    """
    limit = float("inf") if estimator == "k1" else LOG_RATIO_LIMIT
    return kl_estimate(policy_logprobs_BR, reference_logprobs_BR, estimator, limit)
