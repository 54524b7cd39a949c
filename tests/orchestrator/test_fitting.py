"""Prompts that leave no room for an answer: refused by name, truncated or dropped, and counted."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.fitting import fitting_prompts
from orchestrator.prompts import Asked
from orchestrator.recipe_settings import SamplingSettings
from orchestrator.recipe_stages import SampledSettings
from orchestrator.run import RunError
from orchestrator.sampling import Sampler
from tests.model_services import policy_service
from tests.orchestrator.test_import import begun, written
from tests.tiny_models import write_tiny_model

PROMPTS = [
    {"prompt_id": "short", "text": "w1 w2"},
    {"prompt_id": "long", "text": "w3 " * 20 + "w4"},
    {"prompt_id": "just", "text": "w5 " * 16},  # 16 tokens and 8 new ones are the context of 24
]


def settings(**changes: Any) -> SampledSettings:
    return SampledSettings(sampling=SamplingSettings(max_new_tokens=8), **changes)


async def fit(tmp_path: Path, wanted: SampledSettings, prompts: list[dict[str, Any]] = PROMPTS) -> Any:
    """(the prompts to draw from, the run's notes, what a policy with a context of 24 made of them)"""
    model = write_tiny_model(tmp_path / "m", context=24)
    run = begun(tmp_path, written(tmp_path, [{"text": "a", "chosen": "b", "rejected": "c"}]))
    async with policy_service(model=model) as (policy, _):
        run.peers.policy, run.peers.direct = policy, {"policy": {policy.target: policy}}
        version = (await policy.get_policy()).version
        kept = await fitting_prompts(run, "ppo", "prompts", prompts, wanted, version)
        again = await fitting_prompts(run, "ppo", "prompts", prompts, wanted, version)
        assert again == kept, "a resume goes on with the same prompts"
        sampler = Sampler(run, "ppo", 1, wanted.sampling, seed=0, truncate=wanted.too_long == "truncate")
        rollouts = await sampler.chunk(0, [Asked(row) for row in kept], 1, version)
    return kept, run.ledger.info()["notes"], rollouts


async def test_prompts_that_do_not_fit_are_refused_by_name_before_anything_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        await fit(tmp_path, settings())
    said = str(caught.value)
    assert "stages.ppo: 1 of 3 prompts leave no room for 8 new tokens in the policy's context of 24" in said
    assert "long (21 tokens)" in said and "set too_long: truncate or drop" in said and "just" not in said


async def test_they_are_left_out_and_told_where_the_recipe_says_drop(tmp_path: Path) -> None:
    kept, notes, rollouts = await fit(tmp_path, settings(too_long="drop"))
    assert [row["prompt_id"] for row in kept] == ["short", "just"] == [each.prompt_id for each in rollouts]
    (note,) = notes
    assert "1 of 3 prompts leave no room" in note and note.endswith("long (21 tokens); they are left out")


async def test_they_lose_their_oldest_tokens_where_the_recipe_says_truncate(tmp_path: Path) -> None:
    kept, notes, rollouts = await fit(tmp_path, settings(too_long="truncate"))
    assert kept == PROMPTS and notes[0].endswith("they lose their oldest tokens")
    assert [each.prompt_truncated for each in rollouts] == [False, True, False]
    assert list(rollouts[1].prompt_ids) == [8] * 15 + [9]


@pytest.mark.parametrize("too_long", ["drop", "truncate"])
async def test_where_none_can_be_answered_the_run_is_refused(tmp_path: Path, too_long: Any) -> None:
    wanted = SampledSettings(sampling=SamplingSettings(max_new_tokens=24), too_long=too_long)
    with pytest.raises(RunError, match="3 of 3 prompts leave no room for 24 new tokens"):
        await fit(tmp_path, wanted)


async def test_prompts_that_all_fit_are_taken_as_they_are_without_a_word(tmp_path: Path) -> None:
    kept, notes, _ = await fit(tmp_path, settings(), [PROMPTS[0], PROMPTS[2]])
    assert [row["prompt_id"] for row in kept] == ["short", "just"] and not notes
