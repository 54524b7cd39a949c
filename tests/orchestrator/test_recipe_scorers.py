"""Ensembles and combined objectives in a recipe: what they become, and what is wrong with them."""

from pathlib import Path

import pytest
import yaml

from benchmarks.ensemble import recipe as ensemble_recipe
from orchestrator.launcher import service_children
from orchestrator.recipe import Recipe, load_recipe
from orchestrator.recipe_scorers import MemberSettings
from orchestrator.recipe_stages import RewardStage
from orchestrator.stages.reward import reward_steps, training_rows
from services.reward.settings import RewardSettings
from services.settings import parse_settings
from tests.orchestrator.test_recipe import SMALL, changed, faults_of, written

MEMBERS = changed("output: judge\n", "output: judge\n    members: 3\n").replace(
    "learned: [judge]", "learned: [judge-1, judge-2, judge-3]"
)


def reward_stage(recipe: Recipe, name: str) -> RewardStage:
    """A stage that trains a reward model."""
    stage = recipe.stages[name]
    assert isinstance(stage, RewardStage)
    return stage


def with_combined(text: str, *combined: str) -> str:
    """The recipe with these scorers beside its rules."""
    return text.replace(
        '{gold: "world:gold"}', '{gold: "world:gold"}, combined: {' + ", ".join(combined) + "}"
    )


def test_a_stage_with_members_becomes_a_stage_for_each(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, MEMBERS), ["stages.reward.epochs=2"])
    assert list(recipe.stages) == ["sft", "collect", "reward-1", "reward-2", "reward-3"]
    for number in (1, 2, 3):
        stage = reward_stage(recipe, f"reward-{number}")
        assert (stage.output, stage.epochs, stage.members) == (f"judge-{number}", 2, None)
        assert stage.member == MemberSettings(number=number, of=3)
    (tmp_path / "declared").mkdir()
    again = load_recipe(written(tmp_path / "declared", yaml.safe_dump(recipe.declared, sort_keys=False)))
    assert again.sha256 == recipe.sha256


def test_a_fault_in_a_stage_with_members_is_told_with_its_line(tmp_path: Path) -> None:
    before, reward = MEMBERS.split("  reward:\n    kind")
    text = f"{before}  reward:\n    kind{reward.replace('minibatch_size: 8', 'minibatch_size: -8', 1)}"
    line = text.splitlines().index("    minibatch_size: -8") + 1
    faults = faults_of(tmp_path, text)
    assert [fault.split(":")[0] for fault in faults] == [
        f"stages.reward-{number}.minibatch_size" for number in (1, 2, 3)
    ]
    assert all(f"(line {line})" in fault for fault in faults)


@pytest.mark.parametrize("members", ["1", "65", "many", "true"])
def test_a_number_of_members_that_cannot_be_is_told(tmp_path: Path, members: str) -> None:
    faults = faults_of(tmp_path, MEMBERS.replace("members: 3", f"members: {members}"))
    assert any("stages.reward.members" in fault for fault in faults)


def test_members_leave_out_a_share_of_the_prompts_each_and_none_twice(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, MEMBERS))
    collected = [
        {"prompt_id": f"p{index}", "held_out": index % 5 == 4, "preferences": [[0, 1, 1.0]]}
        for index in range(50)
    ]
    training = {row["prompt_id"] for row in collected if not row["held_out"]}
    stages = [reward_stage(recipe, f"reward-{number}") for number in (1, 2, 3)]
    left_out = [training - {row["prompt_id"] for row in training_rows(stage, collected)} for stage in stages]
    assert sorted(map(len, left_out)) == [13, 13, 14]
    assert set().union(*left_out) == training
    whole = load_recipe(written(tmp_path, MEMBERS.replace("members: 3", "members: 3\n    leave_out: false")))
    assert len(training_rows(reward_stage(whole, "reward-2"), collected)) == len(training)
    orders = [
        [row["prompt_id"] for row in reward_steps(0, name, reward_stage(whole, name), collected)[0]]
        for name in ("reward-1", "reward-2")
    ]
    assert orders[0] != orders[1]  # seeds differ


def test_what_the_recipe_combines_the_reward_service_understands(tmp_path: Path) -> None:
    text = with_combined(
        MEMBERS,
        "all: {combine: mean_minus_variance, parts: [judge-1, judge-2, judge-3], variance_weight: 0.5}",
        "low: {combine: min, parts: [judge-1, judge-2]}",
        "both: {combine: weights, parts: [all, gold], weights: [1.0, -0.25]}",
        "and: {combine: log_sigmoid, parts: [low, gold], references: [0, 1.5]}",
        "open: {combine: gate, parts: [all, gold], threshold: 0.5, otherwise: -2.0}",
    )
    recipe = load_recipe(written(tmp_path, text))
    child = next(each for each in service_children(recipe.services, "python") if "reward" in each.name)
    flags = [word.replace("world:gold", "math:hypot") for word in child.command[3:]]
    combined = dict(parse_settings(RewardSettings, "reward", flags).combined)
    assert {name: each.text for name, each in combined.items()} == {
        "all": "mean_minus_variance(0.5):judge-1,judge-2,judge-3",
        "low": "min:judge-1,judge-2",
        "both": "weights:all*1.0,gold*-0.25",
        "and": "log_sigmoid:low@0.0,gold@1.5",
        "open": "gate(gold>=0.5,-2.0):all",
    }
    assert combined["and"].parts == ("low", "gold")
    assert combined["open"].combine([3.0, 0.4]) == -2.0


@pytest.mark.parametrize(
    ("combined", "fault"),
    [
        ("a: {combine: mean, parts: [judge, nobody]}", "combined.a: no scorer 'nobody' before it"),
        ("a: {combine: min, parts: [judge, b]}, b: {combine: min, parts: [judge, gold]}", "no scorer 'b' b"),
        ("a: {combine: mean, parts: [judge]}", "at least 2"),
        ("a: {combine: mean, parts: [judge, judge]}", "named once"),
        ("a: {combine: mean, parts: [judge, gold], weights: [1, 1]}", "weights is not for mean"),
        ("a: {combine: weights, parts: [judge, gold], weights: [1]}", "weights must hold 2 numbers"),
        ("a: {combine: mean_minus_variance, parts: [judge, gold]}", "variance_weight is required by"),
        ("gold: {combine: mean, parts: [judge, gold]}", "scorer names must differ, given twice: gold"),
    ],
)  # fmt: skip
def test_a_combination_that_cannot_be_is_told(tmp_path: Path, combined: str, fault: str) -> None:
    faults = faults_of(tmp_path, with_combined(SMALL, combined))
    assert any(fault in each for each in faults), faults


def test_a_combined_scorer_needs_its_models_made_before_it_is_used(tmp_path: Path) -> None:
    text = with_combined(SMALL, "both: {combine: mean, parts: [judge, gold]}")
    text = text.replace("scorer: gold}", "scorer: both}")
    assert any("no model or earlier stage makes 'judge'" in fault for fault in faults_of(tmp_path, text))


@pytest.mark.parametrize("few_prompts", [False, True])
def test_the_ensemble_benchmark_writes_a_recipe_that_loads(tmp_path: Path, few_prompts: bool) -> None:
    text = ensemble_recipe(4, 2, "mean_minus_variance", few_prompts=few_prompts)
    made = load_recipe(written(tmp_path, yaml.safe_dump(text, sort_keys=False)))
    assert reward_stage(made, "reward-1").init == ("sft" if few_prompts else "start")
    scorers = [stage.scorer for stage in made.stages.values() if stage.kind == "ppo"]
    assert scorers == ["ensemble", "reward-1", "reward-2"]
