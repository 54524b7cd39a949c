"""What one call of a service takes at most is cut to fit, or goes as a file: no legal recipe ends there."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator import training
from orchestrator.recipe import RecipeError, load_recipe
from orchestrator.run import Run
from orchestrator.sampling import LARGEST_CALL, cut_prompts
from orchestrator.stages.collect import sampled
from orchestrator.stages.revise import LARGEST_JUDGED
from orchestrator.stages.reward import by_scorer, measure_order
from services.judge.settings import JudgeSettings
from services.policy.door import LARGEST_CHUNK_ROWS
from services.reward.settings import RewardSettings
from tests.orchestrator.test_import import begun, written
from tests.reward.hosting import RULES, reward_service
from tests.trainer.wiring import begin_request, trainer
from trueline.v1 import policy_pb2, types_pb2

REPOSITORY = Path(__file__).parents[2]


def a_run(tmp_path: Path) -> Run:
    return begun(tmp_path, written(tmp_path, [{"text": "a", "chosen": "b", "rejected": "c"}]))


def compared(count: int, responses: int, words: int = 1) -> list[dict[str, Any]]:
    texts = ["w1 " * words * (place + 1) for place in range(responses)]
    row = {"prompt": {"text": "w3"}, "responses": texts, "preferences": [[0, 1, 1.0]]}
    return [{"prompt_id": f"p{index}", **row} for index in range(count)]


def test_the_limits_are_those_of_the_services() -> None:
    assert LARGEST_CHUNK_ROWS == RewardSettings().max_items == LARGEST_CALL
    assert JudgeSettings(constitution="").max_items == LARGEST_JUDGED


@pytest.mark.parametrize(
    ("stage", "setting", "most"),
    [
        ("helpdesk-ppo", "ppo.samples_per_prompt", LARGEST_CALL),
        ("helpdesk-constitution", "revise.samples_per_prompt", LARGEST_JUDGED),
        ("helpdesk-constitution", "judge-check.label.pairs_per_call", LARGEST_JUDGED),
    ],
)
def test_what_no_call_could_hold_is_refused_with_the_recipe(stage: str, setting: str, most: int) -> None:
    load_recipe(REPOSITORY / f"recipes/{stage}.yaml", [f"stages.{setting}={most}"])
    with pytest.raises(RecipeError, match=f"{setting}: must be at most {most}, is {most + 1}"):
        load_recipe(REPOSITORY / f"recipes/{stage}.yaml", [f"stages.{setting}={most + 1}"])


def test_chunks_that_fit_stay_as_they_are() -> None:
    assert [len(each) for each in cut_prompts(range(130), 64, samples=64)] == [64, 64, 2]
    assert [len(each) for each in cut_prompts(range(130), 64, samples=65)] == [63, 63, 4]
    assert [len(each) for each in cut_prompts(range(2), 64, samples=4096)] == [1, 1]
    assert [len(each) for each in cut_prompts(range(5000), 5000, samples=1)] == [4096, 904]


class CountingPolicy:
    """Answers every prompt with nothing, and counts the rows of each call."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    async def generate(self, request: policy_pb2.GenerateRequest, deadline: float) -> Any:
        self.rows.append(sum(each.samples for each in request.prompts))
        rollouts = [
            types_pb2.Rollout(prompt_id=each.prompt.prompt_id)
            for each in request.prompts
            for _ in range(each.samples)
        ]
        return policy_pb2.GenerateResponse(rollouts=rollouts)


async def test_a_chunk_is_cut_where_its_samples_come_to_more_than_a_call_takes(tmp_path: Path) -> None:
    run, policy = a_run(tmp_path), CountingPolicy()
    run.peers.policy = policy  # type: ignore[assignment]
    collect = ["stages.collect.samples_per_prompt=65", "stages.collect.prompts_per_chunk=64"]
    settings: Any = load_recipe(REPOSITORY / "recipes/helpdesk-ppo.yaml", collect).stages["collect"]
    prompts = [{"prompt_id": f"p{index}", "text": "w1"} for index in range(64)]
    drawn = await sampled(run, "collect", settings, prompts, types_pb2.ModelVersion(), seed=0)
    assert policy.rows == [63 * 65, 65]
    assert [{each.prompt_id for each in group} for group in drawn] == [{f"p{i}"} for i in range(64)]


async def test_held_out_responses_are_scored_however_many_a_prompt_has(tmp_path: Path) -> None:
    run, rows = a_run(tmp_path), compared(256, responses=17)

    async def nothing_to_load(scorer: str) -> None:
        assert scorer == "words"

    run.serve_scorers = nothing_to_load  # type: ignore[method-assign, assignment]
    settings: Any = SimpleNamespace(agreement_scorer="words")
    async with reward_service(rules=RULES) as (client, _):
        run.peers.reward = client
        ordered = await by_scorer(run, settings, rows)
    assert len(ordered) == 256
    assert all(row["preferences"][0] == [1, 0, 1.0] and len(row["preferences"]) == 136 for row in ordered)


async def test_a_batch_that_outgrows_a_message_is_measured_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond what its server takes the trainer reads a file, gives the same figures, and no file stays."""
    rows = compared(300, responses=2, words=10)
    found = {}
    for limit in (2**26, 2**14):
        directory = tmp_path / str(limit)
        directory.mkdir()
        run = a_run(directory)
        monkeypatch.setattr(training, "LARGEST_INLINE_BYTES", limit - 2**10)
        async with trainer(max_message_bytes=limit) as client:
            run.peers.trainer = client
            begin = begin_request(directory, "reward_model", {"max_tokens": 64}, header=run.header("begin"))
            await client.begin_stage(begin)
            ask = partial(run.ask, "trainer")
            stage: Any = SimpleNamespace(run=run, name="reward", trainer=client, ask=ask)
            found[limit] = await measure_order(stage, 0, "held-out", rows)
        assert not [path for path in directory.glob("rollouts/**/*") if path.is_file()]
    assert found[2**14] == found[2**26] and found[2**14]["pairs"] == 300
