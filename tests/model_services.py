"""Real policy and reference services in this process, and tiny real versions for them to serve."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from services.model_settings import ModelSettings
from services.policy.hosting import Policy
from services.policy.service import PolicyServicer
from services.policy.settings import PolicySettings
from services.reference.hosting import Reference
from services.reference.service import ReferenceServicer
from services.server import Server, running
from services.weights import PublishedVersion, publish
from tests.tiny_models import write_tiny_model
from trueline import PolicyClient, ReferenceClient
from trueline.v1 import policy_pb2, types_pb2

POLICY, REFERENCE = "trueline.v1.PolicyService", "trueline.v1.ReferenceService"


def publish_tiny(
    models_dir: Path, number: int = 1, *, model: str = "policy", family: str = "llama", **shape: Any
) -> PublishedVersion:
    """A version whose number is its seed, so that no two are alike."""

    def write(path: Path) -> None:
        write_tiny_model(path, family, **{"seed": number, **shape})

    return publish(models_dir, model, number, write, parent=None)


def version_pb(published: PublishedVersion) -> types_pb2.ModelVersion:
    """Its name on the wire."""
    return types_pb2.ModelVersion(**vars(published.version))


def location(published: PublishedVersion) -> types_pb2.ModelLocation:
    """Where it lies."""
    return types_pb2.ModelLocation(version=version_pb(published), uri=str(published.path))


def header(request_id: str, *, epoch: int = 1) -> types_pb2.CallHeader:
    """Heads a LoadWeights."""
    return types_pb2.CallHeader(run_id="run", epoch=epoch, request_id=request_id)


def sampling(**changes: Any) -> types_pb2.SamplingParameters:
    """Plain sampling of 8 tokens."""
    return types_pb2.SamplingParameters(**{"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 8, **changes})


def asked(*prompts: Any, samples: int = 1, first_sample: int = 0) -> list[policy_pb2.PromptSamples]:
    """One prompt per argument: ids, a text, or messages as (role, content) pairs."""
    return [
        policy_pb2.PromptSamples(prompt=prompt(each), first_sample=first_sample, samples=samples)
        for each in prompts
    ]


def prompt(content: Any) -> types_pb2.Prompt:
    """A prompt of ids, text or messages."""
    if isinstance(content, str):
        return types_pb2.Prompt(text=content)
    if content and isinstance(content[0], tuple):
        messages = [types_pb2.Message(role=role, content=text) for role, text in content]
        return types_pb2.Prompt(conversation=types_pb2.Conversation(messages=messages))
    return types_pb2.Prompt(token_ids=types_pb2.TokenIds(ids=content))


@asynccontextmanager
async def policy_service(**settings: Any) -> AsyncIterator[tuple[PolicyClient, Server]]:
    """A policy service with these settings, and a client of it alone."""
    parsed = PolicySettings(**{"grace": 5.0, **settings})
    async with running(POLICY, lambda host: PolicyServicer(Policy(host, parsed)), parsed) as server:
        if not parsed.follow:
            await server.started()
        async with PolicyClient.direct(server.address) as client:
            yield client, server


@asynccontextmanager
async def reference_service(**settings: Any) -> AsyncIterator[tuple[ReferenceClient, Server]]:
    """A reference service with these settings, and a client of it alone."""
    parsed = ModelSettings(**{"grace": 5.0, **settings})
    async with running(REFERENCE, lambda host: ReferenceServicer(Reference(host, parsed)), parsed) as server:
        if not parsed.follow:
            await server.started()
        async with ReferenceClient.direct(server.address) as client:
            yield client, server
