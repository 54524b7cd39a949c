"""Real judge services in this process: before a scripted endpoint, or with a tiny real model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from services.judge.hosting import Judge
from services.judge.service import JudgeServicer
from services.judge.settings import JudgeSettings, endpoint_url
from services.server import Server, running
from services.weights import PublishedVersion, publish
from tests.judge.scripted_endpoint import Endpoint
from trueline import JudgeClient, wait_until_ready
from trueline.judging import SAMPLED, comparison, judged
from trueline.v1 import judge_pb2, types_pb2

SERVICE = "trueline.v1.JudgeService"

CONSTITUTION = """
name: shop
principles:
  - name: honest
    compare: Which response is more honest?
    score: Is the response honest?
    critique: Say where the response misleads.
    revision: Write it anew without misleading.
    tags: [truth]
  - name: kind
    compare: Which response is kinder?
    critique: Say where the response is unkind.
    revision: Write it anew, kindly.
    weight: 3
    tags: [tone]
"""

# What the tiny model knows: w0 to w58. Its levels are one and two words long.
TINY_CONSTITUTION = """
name: tiny
principles:
  - {name: short, compare: w3, critique: w4, revision: w5}
wording:
  options: [w1, w2]
  levels: [w20, w21, w22, w23, w24, w25, w26, w27, w28, w20 w29]
  compare: "w40 {conversation} {principle} w41 {first} w42 {second} w43"
  reason: "w44 {conversation} {principle} w41 {first} w42 {second}"
  compare_reasoned: "w40 {conversation} {principle} w41 {first} w42 {second} w45 {reasoning} w43"
  score: "w46 {conversation} {principle} {response} w47"
  critique: "w48 {conversation} {principle} {response}"
  revise: "w49 {conversation} {principle} {response} {critique}"
  revise_directly: "w50 {conversation} {principle} {response}"
  user: ""
  assistant: "w51 "
  between_turns: " "
"""


def write_constitution(directory: Path, text: str = CONSTITUTION) -> Path:
    """The text as a file."""
    path = directory / "constitution.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def publish_judge(models_dir: Path, number: int = 1, **shape: Any) -> PublishedVersion:
    """A version of the model "judge": its number is its seed."""
    from tests.tiny_models import write_tiny_model  # here: most of these tests need no torch

    def write(path: Path) -> None:
        write_tiny_model(path, **{"seed": number, "context": 128, **shape})

    return publish(models_dir, "judge", number, write, parent=None)


@asynccontextmanager
async def judge_service(
    constitution: Path, served: Endpoint | None = None, **settings: Any
) -> AsyncIterator[tuple[JudgeClient, Server]]:
    """A judge service with these settings, and a client of it alone. It retries fast, as tests need."""
    given: dict[str, Any] = {"grace": 5.0, "constitution": constitution, "attempts": 3, "longest_pause": 0.05}
    if served is not None:
        given |= {"endpoint": endpoint_url(served.url), "endpoint_model": "oracle"}
    parsed = JudgeSettings(**{**given, **settings})
    async with running(SERVICE, lambda host: JudgeServicer(Judge(host, parsed)), parsed) as server:
        if served is None and not parsed.follow:
            await server.started()
        async with JudgeClient.direct(server.address) as client:
            if served is not None:
                await wait_until_ready(client, timeout=120)
            yield client, server


def sampled(**fields: Any) -> judge_pb2.PrincipleSelection:
    """One principle per item."""
    return judge_pb2.PrincipleSelection(choice=SAMPLED, **fields)


def honest() -> judge_pb2.PrincipleSelection:
    """The principle "honest" alone."""
    return sampled(names=["honest"])


def pairs(count: int) -> list[judge_pb2.ComparisonItem]:
    """Pairs of which every one is another, named p0, p1, ..."""
    return [
        comparison(f"question {n}", f"good answer {n}", f"bad answer {n}", item_id=f"p{n}")
        for n in range(count)
    ]


def responses(count: int) -> list[judge_pb2.JudgedResponse]:
    """Responses of which every one is another, named r0, r1, ..."""
    return [judged(f"question {n}", f"answer {n}", item_id=f"r{n}") for n in range(count)]


def reason_of(outcome: Any) -> str:
    """Why there is no verdict, as "ORDERS_DISAGREE"; "" where there is one."""
    if outcome.WhichOneof("outcome") != "abstention":
        return ""
    name = judge_pb2.AbstentionReason.Name(outcome.abstention.reason)
    return str(name.removeprefix("ABSTENTION_REASON_"))


def header(request_id: str, *, epoch: int = 1) -> types_pb2.CallHeader:
    """Heads a mutating call."""
    return types_pb2.CallHeader(run_id="run", epoch=epoch, request_id=request_id)


def metric(server: Server, name: str, **labels: str) -> float:
    """One sample of what the service shows; 0 where it shows none."""
    return server.host.registry.get_sample_value(name, labels) or 0.0
