"""A run whose scorer is made of others, against a real reward service: what is loaded, named and refused."""

import asyncio
import sys
from pathlib import Path

import pytest

from orchestrator.mending import Mending
from orchestrator.peers import Peers
from orchestrator.progress import PlainProgress
from orchestrator.recipe_scorers import combination_text
from orchestrator.recipe_settings import CombinedSettings, RewardSettings, Services, Supervision
from orchestrator.run import Run
from orchestrator.sampling import score, score_rollouts
from orchestrator.stages.online import disagreement_of, figures_of, figures_of_gold
from orchestrator.summary import summarise
from services.reward.combinations import read_combination
from tests.orchestrator.written_run import RunWriter
from tests.reward.hosting import header, location, publish_reward, reward_service
from trueline.v1 import reward_pb2, types_pb2

RULE = "tests.reward.scripted_rules:count_words"
PAIR = CombinedSettings(combine="mean", parts=["a", "b"])
SUM = CombinedSettings(combine="weights", parts=["pair", "rule"], weights=[1.0, 0.5])
ROWS = [{"prompt_id": "p1", "text": "w1 w2"}, {"prompt_id": "p2", "text": "w3"}]
TEXTS = ["w4", "w5 w1"]
NOBODY: dict[str, list[str]] = {name: [] for name in ("policy", "reference", "trainer", "judge")}


async def test_a_combined_scorer_is_served_with_its_parts_and_held_to_their_versions(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path)
    one, two = publish_reward(tmp_path / "models", 1), publish_reward(tmp_path / "models", 2)
    hosted = RewardSettings(learned=["a", "b"], rules={"rule": RULE}, combined={"pair": PAIR, "sum": SUM})
    models = {"a": str(one.path), "b": str(two.path)}
    recipe = writer.recipe.model_copy(update={"services": Services(reward=hosted), "models": models})
    combined = tuple(
        (name, read_combination(combination_text(each))) for name, each in hosted.combined.items()
    )
    service = reward_service(rules=(("rule", RULE),), learned=(("a", None), ("b", None)), combined=combined)
    async with service as (client, server), Peers({**NOBODY, "reward": [server.address]}) as peers:
        mending = Mending(Supervision(), asyncio.Event(), print)
        run = Run(recipe, writer.directory, writer.ledger, peers, PlainProgress(sys.stderr), mending)
        await run.serve_scorers("sum", None)
        assert set(run.scorers) == {"a", "b", "pair", "sum"}
        apart = [await score(run, name, ROWS, TEXTS) for name in ("a", "b")]
        pair = await score(run, "pair", ROWS, TEXTS)
        for index in range(2):
            members = [scores[index].value.normalised for scores in apart]
            assert pair[index].value.normalised == pytest.approx(sum(members) / 2)
        assert disagreement_of(pair)["disagreement"] > 0
        assert disagreement_of(apart[0]) == {}

        rollouts = [types_pb2.Rollout(response_text=text) for text in TEXTS]
        await score_rollouts(run, "sum", ROWS, rollouts)
        assert [each.scorer for each in rollouts] == ["sum@2", "sum@2"]
        expected = pair[0].value.normalised + 0.5 * 1
        assert rollouts[0].score.value.normalised == pytest.approx(expected)

        other = reward_pb2.RewardServiceLoadWeightsRequest(
            header=header("elsewhere", run_id="other"), scorer="b", location=location(one)
        )
        await client.load_weights(other)  # somebody else gives the service another member
        foreign = await client.score("sum", [(ROWS[0]["text"], TEXTS[0])])
        assert foreign.scores[0].value.normalised != pytest.approx(expected)
        again = await score(run, "sum", ROWS, TEXTS)  # is refused that one, puts its own back and asks again
        assert again[0].value.normalised == pytest.approx(expected)


async def test_what_a_scorer_had_to_cut_is_noted_once_for_each_stage(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path)
    short = publish_reward(tmp_path / "models", 1, context=8)
    recipe = writer.recipe.model_copy(
        update={"services": Services(reward=RewardSettings(learned=["a"])), "models": {"a": str(short.path)}}
    )
    rows = [{"prompt_id": "p1", "text": " ".join(["w1"] * 9)}, ROWS[1]]
    service = reward_service(learned=(("a", None),))
    async with service as (_, server), Peers({**NOBODY, "reward": [server.address]}) as peers:
        mending = Mending(Supervision(), asyncio.Event(), print)
        run = Run(recipe, writer.directory, writer.ledger, peers, PlainProgress(sys.stderr), mending)
        await run.serve_scorers("a")
        await score(run, "a", ROWS, TEXTS)
        assert writer.ledger.info()["notes"] == [], "nothing was cut"
        for run.stage in ("ppo", "ppo", "evaluate"):
            scores = await score(run, "a", rows, TEXTS)
            await score_rollouts(run, "a", rows, [types_pb2.Rollout(response_text=text) for text in TEXTS])
    told = writer.ledger.info()["notes"]
    assert [note.partition(":")[0] for note in told] == ["ppo", "evaluate"]
    assert "longer than the context of the scorer 'a'" in told[0]
    assert summarise(writer.ledger)["notes"] == told
    assert figures_of_gold([], scores)["reward_truncated_share"] == 0.5
    assert "reward_truncated_share" not in figures_of_gold([], scores[1:])


def test_a_measurement_keeps_scores_and_shows_figures() -> None:
    measured = {"gold": 1.0, "disagreement": 0.2, "gold_scores": [1.0], "proxy_scores": [None]}
    assert figures_of(measured) == {"gold": 1.0, "disagreement": 0.2}
