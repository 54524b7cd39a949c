"""Builds a stage from its plan: models verified and loaded, optimizers fresh, nothing half."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from services.errors import FieldError
from services.hub import fetched
from services.models import LoadedCausal, load_causal
from services.progress import ProgressFeed
from services.trainer.device import Compute
from services.trainer.loading import load_critic, load_trained_scalar
from services.trainer.memory_plan import COPY_BYTES, GIB, STATE_BYTES, memory_of, parameters_on_disk
from services.trainer.ppo import PpoStage
from services.trainer.preference import PreferenceStage
from services.trainer.preference_reference import check_reference, load_frozen
from services.trainer.preference_settings import PreferenceSettings
from services.trainer.records import StageBegun, StagePlan
from services.trainer.reward_model import RewardModelStage
from services.trainer.settings import PpoSettings, RewardModelSettings, SftSettings
from services.trainer.sft import SftStage
from services.trainer.stage import Stage
from services.weights import ModelVersion, identify

log = logging.getLogger(__name__)


def build_stage(plan: StagePlan, compute: Compute, progress: ProgressFeed) -> tuple[Stage, StageBegun]:
    """The stage and what it began with. Raises FieldErrors for settings, WeightsError for models."""
    progress.report("verifying and loading models")
    plan = _fetched(plan)
    if compute.ranks.leads:
        log.info("memory plan", extra=_needs(plan, compute))
    return BUILDERS[type(plan.settings)](plan, compute)


def _fetched(plan: StagePlan) -> StagePlan:
    """The plan with a directory for each of its models, those that it gives by hub name included."""
    places = {role: getattr(plan, role) for role in ("trained", "reward", "reference")}
    return replace(
        plan,
        **{role: replace(each, path=fetched(each.path)) for role, each in places.items() if each is not None},
    )


def _needs(plan: StagePlan, compute: Compute) -> dict[str, object]:
    """What the models in training will take on each rank, by the headers of their files, before they load."""
    parameters = parameters_on_disk(plan.trained.path)
    # A critic is of the policy's size, or the reward model's where it can be that.
    both = parameters * (2 if isinstance(plan.settings, PpoSettings) else 1)
    return {
        "parameters": parameters,
        "ranks": compute.ranks.size,
        "states_gib": round(STATE_BYTES * both / compute.ranks.size / GIB, 3),
        "undo_copy_gib": round(COPY_BYTES * both / compute.ranks.size / GIB, 3),
        "memory_gib": round(memory_of(compute.device) / GIB, 3),
        "activations": f"python -m services.trainer plan {plan.trained.path}",
    }


def _policy(plan: StagePlan, compute: Compute) -> tuple[LoadedCausal, ModelVersion]:
    """The trained language model, verified, loaded and spread over the ranks.

    Before any other model of the stage is loaded, so that no two lie whole in main memory.
    """
    version = identify(plan.trained.path, plan.trained.version).version
    loaded = load_causal(plan.trained.path, device=compute.loading_device)
    compute.prepare(loaded.model)
    return loaded, version


def _sft(plan: StagePlan, compute: Compute) -> tuple[Stage, StageBegun]:
    assert isinstance(plan.settings, SftSettings)
    plan.settings.check("sft")
    loaded, version = _policy(plan, compute)
    stage = SftStage(plan, plan.settings, loaded, version, compute.shared(loaded.model))
    return stage, StageBegun(_parameters(stage))


def _reward_model(plan: StagePlan, compute: Compute) -> tuple[Stage, StageBegun]:
    assert isinstance(plan.settings, RewardModelSettings)
    plan.settings.check("reward_model")
    version = identify(plan.trained.path, plan.trained.version).version
    loaded = load_trained_scalar(plan.trained.path, plan.seed, compute.loading_device)
    compute.prepare(loaded.model)
    stage = RewardModelStage(plan, plan.settings, loaded, version, compute.shared(loaded.model))
    return stage, StageBegun(_parameters(stage))


def _ppo(plan: StagePlan, compute: Compute) -> tuple[Stage, StageBegun]:
    assert isinstance(plan.settings, PpoSettings)
    plan.settings.check("ppo")
    policy, version = _policy(plan, compute)
    critic = load_critic(policy, plan.trained.path, plan.reward, plan.seed, compute.loading_device)
    compute.prepare(critic.loaded.model)
    stage = PpoStage(plan, plan.settings, policy, critic, version, compute)
    return stage, StageBegun(_parameters(stage), critic.origin, critic.reason)


def _preference(plan: StagePlan, compute: Compute) -> tuple[Stage, StageBegun]:
    assert isinstance(plan.settings, PreferenceSettings)
    plan.settings.check("preference")
    policy, version = _policy(plan, compute)
    frozen = load_frozen(policy, plan.reference, compute.loading_device) if plan.reference else None
    if frozen:
        compute.prepare(frozen.loaded.model)
    stage = PreferenceStage(plan, plan.settings, policy, version, compute.shared(policy.model), frozen)
    return stage, StageBegun(_parameters(stage))


Builder = Callable[[StagePlan, Compute], tuple[Stage, StageBegun]]
BUILDERS: dict[type[Any], Builder] = {
    SftSettings: _sft,
    RewardModelSettings: _reward_model,
    PpoSettings: _ppo,
    PreferenceSettings: _preference,
}


def _parameters(stage: Stage) -> int:
    """Parameters of the model that the stage publishes."""
    published = next(iter(stage.learners.values()))
    return sum(parameter.numel() for parameter in published.parameters.values())


def check_plan(plan: StagePlan) -> None:
    """Raises FieldError for a plan whose parts do not go together."""
    if plan.reward is not None and not isinstance(plan.settings, PpoSettings):
        raise FieldError("models", "MODEL_ROLE_REWARD", "only a PPO stage takes a reward model")
    check_reference(plan)
