"""The reference that a preference stage compares with: which losses may have one, and its frozen copy."""

from __future__ import annotations

import torch

from services.errors import FieldError
from services.models import LoadedCausal, load_causal
from services.templates import tokenizer_sha256
from services.trainer.preference_passes import Frozen
from services.trainer.preference_settings import PreferenceSettings
from services.trainer.records import Location, StagePlan
from services.weights import identify

FIELD, ROLE = "models", "MODEL_ROLE_REFERENCE"


def check_reference(plan: StagePlan) -> None:
    """Raises FieldError where the stage has a reference it cannot use, or lacks one it cannot do without."""
    settings = plan.settings
    if plan.reference is not None:
        if not isinstance(settings, PreferenceSettings):
            raise FieldError(FIELD, ROLE, "only a preference stage takes a reference")
        if not settings.loss_row.reference:
            raise FieldError(FIELD, ROLE, f"{settings.loss} compares with no reference: send none")
    elif isinstance(settings, PreferenceSettings) and settings.loss_row.mismatched:
        limit = f"must hold a model of role {ROLE}: kto reads responses to prompts they do not answer"
        raise FieldError(FIELD, None, limit)


def load_frozen(policy: LoadedCausal, reference: Location, device: torch.device) -> Frozen:
    """The reference, verified and without gradients. Raises FieldError where it reads other tokens."""
    version = identify(reference.path, reference.version).version
    loaded = load_causal(reference.path, device=device)
    if tokenizer_sha256(policy.tokenizer) != tokenizer_sha256(loaded.tokenizer):
        raise FieldError(FIELD, ROLE, "its tokenizer must be the trained model's")
    for name in ("vocabulary_size", "context_length"):
        mine, theirs = getattr(policy, name), getattr(loaded, name)
        if theirs < mine:
            limit = f"its {name.replace('_', ' ')} must be at least the trained model's, {mine}"
            raise FieldError(FIELD, theirs, limit)
    loaded.model.requires_grad_(False)
    return Frozen(loaded, version)
