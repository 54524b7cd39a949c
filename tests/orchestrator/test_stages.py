"""What a stage does when it is entered again."""

import sys
from pathlib import Path

from orchestrator.peers import Peers
from orchestrator.progress import PlainProgress
from orchestrator.recipe_stages import CollectStage
from orchestrator.run import Run
from orchestrator.stages.collect import run_collect
from tests.orchestrator.test_ledger import COMPARISON
from tests.orchestrator.written_run import RunWriter


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
    run = Run(writer.recipe, writer.directory, writer.ledger, peers, PlainProgress(sys.stderr))
    for _ in range(2):
        result = await run_collect(run, "collect", settings)
        assert result == {"prompts": 2, "comparisons": 2, "held_out_prompts": 1, "policy": "sft"}
    assert run.ledger.phase("collect", 1, "labelled") == {"prompts": 2}
