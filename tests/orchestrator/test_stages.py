"""What a stage does when it is entered again."""

import asyncio
import math
import sys
from pathlib import Path

import pytest

from orchestrator.ending import failing, is_over
from orchestrator.launcher import LaunchError
from orchestrator.mending import Mending
from orchestrator.peers import Peers
from orchestrator.progress import PlainProgress
from orchestrator.recipe_settings import Supervision
from orchestrator.recipe_stages import CollectStage
from orchestrator.run import Run
from orchestrator.stages.collect import run_collect
from orchestrator.stages.ppo import score_fault
from services.trainer.door import score_fault as trainers_fault
from services.trainer.records import ScoredRollout
from services.weights import ModelVersion
from tests.orchestrator.test_ledger import COMPARISON
from tests.orchestrator.written_run import RunWriter
from trueline.v1 import types_pb2

TOLD = ("temperature", "length", ModelVersion("policy", 1, ""), 1.0, 1.0, 0)


async def test_a_collection_that_is_kept_is_not_collected_again(tmp_path: Path) -> None:
    """The orchestrator died between keeping the comparisons and saying so; no service is called."""
    writer = RunWriter(tmp_path)
    rows = [COMPARISON, {**COMPARISON, "prompt_id": "p2", "held_out": True}]
    writer.ledger.add_comparisons("pairs", rows)
    settings = CollectStage(
        kind="collect", policy="sft", prompts=str(tmp_path / "prompts.jsonl"), output="pairs",
        sampling={"max_new_tokens": 8}, label={"kind": "simulated", "scorer": "rule"},
    )  # fmt: skip
    peers = Peers({name: [] for name in ("policy", "reference", "reward", "trainer")})
    mending = Mending(Supervision(), asyncio.Event(), print)
    run = Run(writer.recipe, writer.directory, writer.ledger, peers, PlainProgress(sys.stderr), mending)
    for _ in range(2):
        result = await run_collect(run, "collect", settings)
        assert result == {"prompts": 2, "comparisons": 2, "held_out_prompts": 1, "policy": "sft"}
    assert run.ledger.phase("collect", 1, "labelled") == {"prompts": 2}


def test_a_run_whose_services_do_not_come_up_has_failed_and_one_that_is_over_needs_none(
    tmp_path: Path,
) -> None:
    writer = RunWriter(tmp_path).write()
    assert not is_over(writer.recipe, writer.ledger), "its export has not been done"
    writer.ledger.set_run(status="running")
    with pytest.raises(LaunchError), failing(writer.ledger):
        raise LaunchError("reward-0 ended with exit code 2")
    assert writer.ledger.info()["status"] == "failed"
    writer.ledger.begin_stage("export", "export", 3)
    writer.ledger.finish_stage("export", {})
    writer.ledger.set_run(status="finished")
    assert is_over(writer.recipe, writer.ledger)


@pytest.mark.parametrize(
    ("raw", "normalised", "clip", "fault"),
    [
        (1.0, -2.0, 0.0, ""),
        (1e39, 0.5, 0.0, ""),
        (1e25, 1e25, 5.0, ""),
        (1e25, 1e25, 0.0, "score_not_finite: the score is 1e+25"),
        (1e25, -1e25, 1e20, "score_not_finite"),
        (math.nan, 1.0, 5.0, "score_not_finite"),
        (1.0, -math.inf, 5.0, "score_not_finite"),
    ],
)
def test_a_score_counts_as_missing_where_the_trainer_would_leave_it_out(
    raw: float, normalised: float, clip: float, fault: str
) -> None:
    """Before the batch is kept: of a batch that is, every resume would be refused alike."""
    found = score_fault(types_pb2.Score(value=types_pb2.ScoreValue(raw=raw, normalised=normalised)), clip)
    assert found.startswith(fault) and bool(found) == bool(fault)
    rollout = {"score": normalised, "raw_score": raw}
    assert bool(trainers_fault(ScoredRollout([5], [6], [0.0], [0.0], *TOLD, **rollout), clip)) == bool(fault)


def test_a_score_that_is_an_error_is_missing() -> None:
    error = types_pb2.ItemError(reason="timeout", message="no answer")
    assert score_fault(types_pb2.Score(error=error), 0.0) == "timeout: no answer"
    assert score_fault(types_pb2.Score(), 0.0) == "no score: "
