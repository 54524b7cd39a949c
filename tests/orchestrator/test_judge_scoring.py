"""A scorer held against the judge, over the wire: by the scores that train."""

from pathlib import Path

import pytest

from orchestrator.judge_audit import audit, disagreements
from orchestrator.judge_scoring import rated
from orchestrator.labelling import label_pairs
from tests.orchestrator.test_labelling import good_wins, judged_run, label, pairs
from tests.wire import scripted_services
from tests.wire.scripted_services import ScriptedReward, serve
from trueline.v1 import reward_pb2, types_pb2


def length_controlled(item: reward_pb2.ScoreItem) -> types_pb2.Score:
    """Raw, the longer is better; what length does not explain says the opposite."""
    length = float(len(item.response))
    return types_pb2.Score(value=types_pb2.ScoreValue(raw=length, normalised=2.0 - 0.5 * length))


async def test_a_length_controlled_scorer_is_asked_for_the_scores_that_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripted_services, "_score", length_controlled)
    async with judged_run(tmp_path, good_wins) as (run, _), serve(ScriptedReward) as reward:
        await label_pairs(run, "collect", 1, pairs(5), label(), seed=3)
        hosted = run.recipe.services.reward.model_copy(update={"addresses": [reward.address]})
        services = run.recipe.services.model_copy(update={"reward": hosted})
        recipe = run.recipe.model_copy(update={"services": services})
        labels = await rated(recipe, run.directory, run.ledger, run.ledger.all_labels(), "rule")
    # The judge prefers "good n" to "bad n", which is a letter shorter.
    assert [row["scorer_margin"] for row in labels] == [-0.5] * 5
    assert audit(labels)["scorer"]["agreement"] == 0.0
    assert {each["other_prefers"] for each in disagreements(labels)} == {"second"}
