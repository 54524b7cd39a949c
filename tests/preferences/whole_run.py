"""A run on real services in this process: policy, reference, reward and trainer with tiny real models."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from orchestrator.data import file_sha256
from orchestrator.drive import new_run
from orchestrator.mending import Mending
from orchestrator.peers import Peers
from orchestrator.progress import PlainProgress
from orchestrator.recipe import load_recipe
from orchestrator.recipe_settings import Supervision
from orchestrator.run import Run
from orchestrator.verify import Verdict, verify
from tests.model_services import policy_service, reference_service
from tests.reward.hosting import reward_service
from tests.tiny_models import write_tiny_model
from tests.trainer.wiring import trainer

RULES = {
    "words": "tests.reward.scripted_rules:count_words",
    "even": "tests.preferences.rules:even_words",
}
RATE = {"learning_rate": 0.003}
ALGORITHM = {"optimizer": RATE, "minibatch_size": 16, "micro_batch_size": 16, "max_tokens": 64}
DPO: dict[str, Any] = {
    "kind": "dpo",
    "policy": "start",
    "reference": "start",
    "label": {"kind": "simulated", "scorer": "words"},
    "gold_scorer": "words",
    "gold_every": 1,
    "gold_limit": 4,
    "rounds": 2,
    "prompts_per_round": 6,
    "prompts_per_chunk": 3,
    "sampling": {"max_new_tokens": 8},
    "output": "policy",
    "algorithm": ALGORITHM,
}


def recipe(directory: Path, stages: dict[str, Any]) -> Path:
    """A recipe of these stages over a tiny model and eight prompts."""
    prompts = [{"prompt_id": f"p{i}", "text": f"w{i} w{i + 1}"} for i in range(8)]
    (directory / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    for stage in stages.values():
        if stage["kind"] == "dpo":
            stage["prompts"] = str(directory / "prompts.jsonl")
            stage["gold_prompts"] = stage["prompts"]
    start = write_tiny_model(directory / "start", seed=1)
    made = {"name": "pairs", "models": {"start": str(start)}, "stages": stages}
    made["services"] = {"reward": {"rules": RULES}}
    path = directory / "recipe.yaml"
    path.write_text(json.dumps(made))
    return path


@asynccontextmanager
async def services(start: Path) -> AsyncIterator[dict[str, list[str]]]:
    """Addresses of one real service of each kind; the reward service has the rules alone."""
    async with (
        policy_service(model=start) as (_, policy),
        reference_service(model=start) as (_, reference),
        reward_service(rules=tuple(RULES.items()), learned=()) as (_, reward),
        trainer() as client,
    ):
        servers = {"policy": policy, "reference": reference, "reward": reward, "trainer": client.server}  # type: ignore[attr-defined]
        yield {name: [server.address] for name, server in servers.items()}


@asynccontextmanager
async def whole_run(directory: Path, stages: dict[str, Any]) -> AsyncIterator[Run]:
    """A run whose first stage may begin."""
    path, place = recipe(directory, stages), directory / "run"
    ledger = new_run(path, place, [], None)
    ledger.take_lease()
    data = {str(each): file_sha256(each) for each in [directory / "prompts.jsonl"]}
    ledger.set_run(data_sha256=data, status="running")
    name = next(iter(stages))
    ledger.begin_stage(name, stages[name]["kind"], 1)
    async with services(directory / "start") as addresses, Peers(addresses) as peers:
        mending = Mending(Supervision(), asyncio.Event(), print)
        progress = PlainProgress(io.StringIO())
        yield Run(load_recipe(path, run_dir=place), place, ledger, peers, progress, mending)


def recounted(run: Run) -> Verdict:
    """What `verify` says of the run."""
    return verify(run.ledger, run.directory)
