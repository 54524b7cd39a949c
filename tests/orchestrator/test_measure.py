"""Held-out accuracy counts the pairs that were measured, and no pair that was too long to be."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from orchestrator.stages.reward import measure_order
from tests.orchestrator.test_import import begun, written
from tests.trainer.wiring import begin_request, trainer


async def test_a_comparison_too_long_to_be_measured_is_in_no_interval(tmp_path: Path) -> None:
    run = begun(tmp_path, written(tmp_path, [{"text": "a", "chosen": "b", "rejected": "c"}]))
    rows = [
        {"prompt_id": name, "prompt": {"text": text}, "responses": ["w1", "w2"], "preferences": [[0, 1, 1.0]]}
        for name, text in (("p", "w3"), ("q", "w4 w5"), ("long", "w6 " * 40))
    ]
    async with trainer() as client:
        run.peers.trainer = client
        begin = begin_request(tmp_path, "reward_model", {"max_tokens": 20}, header=run.header("begin"))
        await client.begin_stage(begin)
        ask = partial(run.ask, "trainer")
        stage: Any = SimpleNamespace(run=run, name="reward", trainer=client, ask=ask)
        found = await measure_order(stage, 0, "held-out", rows)
    assert found["pairs"] == 2 and found["excluded"] == 1
