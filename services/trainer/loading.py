"""The models a stage begins with: verified first, then loaded, never half."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from services.errors import FieldError
from services.models import LoadedCausal, LoadedScalar, load_scalar
from services.templates import tokenizer_sha256
from services.trainer.records import Location
from services.weights import identify


def check_max_tokens(field: str, max_tokens: int, context_length: int) -> None:
    """Raises FieldError where rows could be longer than the model's context."""
    if max_tokens > context_length:
        raise FieldError(field, max_tokens, f"must be at most the model's context, {context_length} tokens")


def load_trained_scalar(path: Path, seed: int, device: torch.device) -> LoadedScalar:
    """The scalar model in a directory as it is, or a new head on a language model's backbone."""
    return load_scalar(path, initialise_head=not _is_scalar(path), seed=seed, device=device)


def _is_scalar(path: Path) -> bool:
    architectures = json.loads((path / "config.json").read_bytes()).get("architectures") or []
    return any("SequenceClassification" in name for name in architectures)


@dataclass(frozen=True)
class Critic:
    """A critic, where it comes from ("reward" or "trained") and why it could not be the reward model."""

    loaded: LoadedScalar
    origin: str
    reason: str = ""


def load_critic(
    policy: LoadedCausal, policy_path: Path, reward: Location | None, seed: int, device: torch.device
) -> Critic:
    """The reward model where its tokens and context are the policy's, else the policy with a new head.

    A reward model's scores are normalised by a gain before they train anything; its head is scaled by that
    gain, so that the critic starts in the unit of what it is to foretell.
    """
    reason = ""
    if reward is not None:
        manifest = identify(reward.path, reward.version)
        loaded = load_scalar(reward.path, device=device)
        reason = _misfit(policy, loaded)
        if not reason:
            gain = (manifest.extra.get("normalisation") or {}).get("gain", 1.0)
            with torch.no_grad():
                loaded.model.score.weight.mul_(gain)
            return Critic(loaded, "reward")
    return Critic(load_scalar(policy_path, initialise_head=True, seed=seed, device=device), "trained", reason)


def _misfit(policy: LoadedCausal, reward: LoadedScalar) -> str:
    """Why the reward model cannot read the policy's tokens, in one sentence; "" when it can."""
    if tokenizer_sha256(policy.tokenizer) != tokenizer_sha256(reward.tokenizer):
        return "the reward model's tokenizer is not the policy's"
    if policy.vocabulary_size != reward.vocabulary_size:
        sizes = f"{reward.vocabulary_size} ids, the policy {policy.vocabulary_size}"
        return f"the reward model embeds {sizes}"
    if reward.context_length < policy.context_length:
        return (
            f"the reward model reads {reward.context_length} tokens, the policy's context is "
            f"{policy.context_length}"
        )
    return ""
