"""Real reward services in this process, and tiny real reward models for them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import torch

from services.models import load_scalar, save_scalar
from services.reward.hosting import Rewards
from services.reward.service import RewardServicer
from services.reward.settings import RewardSettings
from services.server import Server, running
from services.weights import PublishedVersion, publish
from tests.tiny_models import write_tiny_model
from trueline import RewardClient
from trueline.v1 import types_pb2

SERVICE = "trueline.v1.RewardService"
RULES = (("words", "tests.reward.scripted_rules:count_words"),)


def publish_reward(
    models_dir: Path,
    number: int = 1,
    *,
    head: float | None = None,
    extra: dict[str, Any] | None = None,
    **shape: Any,
) -> PublishedVersion:
    """A version of the model "reward": its number is its seed, and `head` fills the head's weights."""
    plain = write_tiny_model(models_dir / f"plain-{number}", seed=number, **shape)
    loaded = load_scalar(plain, initialise_head=True, seed=number)
    if head is not None:
        torch.nn.init.constant_(loaded.model.score.weight, head)

    def write(path: Path) -> None:
        save_scalar(loaded.model, loaded.tokenizer, path)

    return publish(models_dir, "reward", number, write, parent=None, extra=extra)


def location(published: PublishedVersion) -> types_pb2.ModelLocation:
    """Where a published version lies, as LoadWeights takes it."""
    return types_pb2.ModelLocation(version=version_pb(published), uri=str(published.path))


def version_pb(published: PublishedVersion) -> types_pb2.ModelVersion:
    """Its name on the wire."""
    return types_pb2.ModelVersion(**vars(published.version))


def header(request_id: str, *, epoch: int = 1, run_id: str = "run") -> types_pb2.CallHeader:
    """Heads a LoadWeights."""
    return types_pb2.CallHeader(run_id=run_id, epoch=epoch, request_id=request_id)


@asynccontextmanager
async def reward_service(**settings: Any) -> AsyncIterator[tuple[RewardClient, Server]]:
    """A reward service with these settings (by default one rule and the learned scorer "reward")."""
    settings = {"rules": RULES, "learned": (("reward", None),), "grace": 5.0, **settings}
    parsed = RewardSettings(**settings)
    assert parsed.faults() == []
    async with running(SERVICE, lambda host: RewardServicer(Rewards(host, parsed)), parsed) as server:
        if not parsed.follow:
            await server.started()
        async with RewardClient.direct(server.address) as client:
            yield client, server
