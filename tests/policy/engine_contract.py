"""What the tests of engines share: a policy service on one of them, and two versions for it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from services.models import load_causal
from services.sequences import score_rows
from services.weights import PublishedVersion
from tests.model_services import (
    asked,
    header,
    location,
    policy_service,
    publish_tiny,
    sampling,
)
from tests.policy.scripted_engines import ScriptedEngine, TgiServer, VllmServer, served
from tests.tiny_models import REPLY
from trueline import CallError, PolicyClient
from trueline.v1 import types_pb2 as pb

PROMPTS = [[1, 5, 6, REPLY], [1, 7, REPLY], [1, *range(8, 20), REPLY]]
REAL = pytest.param("real", marks=pytest.mark.engine)
ENGINES = ["transformers", "vllm", "tgi", REAL]
REMOTE = ["vllm", "tgi"]
QUICK = {"endpoint_seconds": 30.0, "endpoint_attempts": 3, "load_seconds": 20.0}


@dataclass
class Contract:
    """A policy service on one engine, and two versions for it."""

    policy: PolicyClient
    versions: list[PublishedVersion]
    engine: ScriptedEngine | None
    kind: str

    async def load(self, index: int, request_id: str = "") -> Any:
        published = self.versions[index]
        where, named = location(published), header(request_id or f"load-{index}")
        return await self.policy.load_weights(header=named, location=where)

    async def draw(self, *prompts: Any, samples: int = 3, **changes: Any) -> list[pb.Rollout]:
        version = changes.pop("expected_version", None)
        reply = await self.policy.generate(
            prompts=asked(*(prompts or PROMPTS), samples=samples),
            sampling=sampling(**changes),
            **({"expected_version": version} if version else {}),
        )
        return list(reply.rollouts)


def logprobs_of(
    version: PublishedVersion, rollouts: list[pb.Rollout], temperature: float
) -> list[list[float]]:
    """What the trainer computes: the truth that an engine's numbers are held against."""
    loaded = load_causal(version.path)
    prompts, responses = ([list(r.prompt_ids) for r in rollouts], [list(r.response_ids) for r in rollouts])
    return score_rows(loaded.model, prompts, responses, temperature, loaded.pad_id)


@asynccontextmanager
async def contract(kind: str, tmp_path: Path, **settings: Any) -> AsyncIterator[Contract]:
    versions = [publish_tiny(tmp_path / "models", n, width=256 if kind == "real" else 32) for n in (1, 2)]
    with ExitStack() as stack:
        given: dict[str, Any] = {}
        engine: ScriptedEngine | None = None
        if kind == "real":
            if not os.environ.get("TRUELINE_ENDPOINT"):
                pytest.skip("needs TRUELINE_ENGINE and TRUELINE_ENDPOINT: no real engine here")
            given = {"engine": os.environ["TRUELINE_ENGINE"], "endpoint": os.environ["TRUELINE_ENDPOINT"]}
        elif kind == "vllm":
            engine = stack.enter_context(served(VllmServer(versions[0].path)))
            given = {"engine": "vllm", "endpoint": engine.url, **QUICK}
        elif kind == "tgi":
            restart = tmp_path / "restart"
            engine = stack.enter_context(served(TgiServer(versions[0].path, restart)))
            given = {"engine": "tgi", "endpoint": engine.url, "restart_file": restart, **QUICK}
        async with policy_service(**{**given, **settings}) as (policy, _):
            under = Contract(policy, versions, engine, kind)
            await under.load(0)
            yield under


async def refusal(call: Any) -> CallError:
    with pytest.raises(CallError) as caught:
        await call
    return caught.value
