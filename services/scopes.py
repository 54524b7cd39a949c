"""What each rpc asks of a caller's token: one row per method; a test holds that none is left out.

A method without a row is refused to everybody. Scopes do not contain each other: a token has those it names.
"""

from __future__ import annotations

_POLICY, _REFERENCE, _REWARD = (
    "trueline.v1.PolicyService",
    "trueline.v1.ReferenceService",
    "trueline.v1.RewardService",
)
_JUDGE, _TRAINER = "trueline.v1.JudgeService", "trueline.v1.TrainerService"

# Health is asked by kubelets and balancers, which carry no token.
OPEN_SERVICES = ("grpc.health.v1.Health",)

SCOPE_OF_RPC: dict[str, str] = {
    f"/{_POLICY}/Generate": "generate",
    f"/{_POLICY}/CountPromptTokens": "generate",
    f"/{_POLICY}/ComputeLogprobs": "generate",
    f"/{_POLICY}/LoadWeights": "admin",
    f"/{_POLICY}/GetPolicy": "read",
    f"/{_REFERENCE}/ComputeLogprobs": "generate",
    f"/{_REFERENCE}/LoadWeights": "admin",
    f"/{_REFERENCE}/GetReference": "read",
    f"/{_REWARD}/Score": "score",
    f"/{_REWARD}/ListScorers": "read",
    f"/{_REWARD}/LoadWeights": "admin",
    f"/{_JUDGE}/Compare": "score",
    f"/{_JUDGE}/Score": "score",
    f"/{_JUDGE}/Critique": "score",
    f"/{_JUDGE}/Revise": "score",
    f"/{_JUDGE}/GetConstitution": "read",
    f"/{_JUDGE}/ReloadConstitution": "admin",
    f"/{_JUDGE}/LoadWeights": "admin",
    f"/{_TRAINER}/GetState": "read",
    f"/{_TRAINER}/BeginStage": "train",
    f"/{_TRAINER}/SftStep": "train",
    f"/{_TRAINER}/RewardModelStep": "train",
    f"/{_TRAINER}/FitNormalisation": "train",
    f"/{_TRAINER}/PpoStep": "train",
    f"/{_TRAINER}/PreferenceStep": "train",
    f"/{_TRAINER}/Publish": "train",
    f"/{_TRAINER}/RollBack": "train",
    f"/{_TRAINER}/Checkpoint": "train",
    f"/{_TRAINER}/Restore": "train",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": "read",
}

# Routes of every service's HTTP port, and what they ask; every other path asks for read too.
SCOPE_OF_ROUTE: dict[str, str] = {"/metrics": "read"}


def scope_of(method: str) -> str | None:
    """The scope that an rpc asks for, by its full name; None for the open ones. KeyError without a row."""
    if method.lstrip("/").partition("/")[0] in OPEN_SERVICES:
        return None
    return SCOPE_OF_RPC[method]
