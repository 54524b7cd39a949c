"""Refreshes of reward models in a recipe: which stages they are made of, and which cannot be."""

from pathlib import Path

import pytest

from orchestrator.recipe import load_recipe
from orchestrator.refreshes import all_stages, collected_for, refreshes_of
from tests.orchestrator.test_recipe import SMALL, faults_of, written

ROUNDS = """\
  ppo:
    kind: ppo
    policy: tuned
    reference: tuned
    scorer: judge
    prompts: "{prepared}/prompts.jsonl"
    rounds: 12
    prompts_per_round: 8
    sampling: {max_new_tokens: 16}
    output: policy
    refresh: {every: 5, reward: reward, label: {kind: simulated, scorer: gold}}
    algorithm:
      minibatches: 2
      micro_batch_size: 8
      policy_optimizer: {learning_rate: 1.0e-3}
      critic_optimizer: {learning_rate: 1.0e-3}
"""


def test_a_refresh_is_stages_within_its_stage_and_none_comes_behind_the_last_round(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, SMALL + ROUNDS))
    assert [each.behind for each in refreshes_of(recipe, "ppo")] == [5, 10]
    within = [
        "ppo-refresh-000005",
        "ppo-refresh-000005-reward",
        "ppo-refresh-000010",
        "ppo-refresh-000010-reward",
    ]
    assert list(all_stages(recipe)) == ["sft", "collect", "reward", "ppo", *within]
    assert collected_for(recipe, within[1]) == ["comparisons", within[0]]
    assert collected_for(recipe, within[3]) == ["comparisons", within[0], within[2]]
    assert collected_for(recipe, "reward") == []
    ten = load_recipe(written(tmp_path, SMALL + ROUNDS), ["stages.ppo.rounds=10"])
    assert [each.behind for each in refreshes_of(ten, "ppo")] == [5]


def test_a_refresh_repeats_every_member_of_an_ensemble(tmp_path: Path) -> None:
    ensemble = SMALL.replace("learned: [judge]", "learned: [judge-1]")
    rounds = ROUNDS.replace("scorer: judge\n", "scorer: judge-1\n")
    recipe = load_recipe(written(tmp_path, ensemble + rounds), ["stages.reward.members=2"])
    first = refreshes_of(recipe, "ppo")[0]
    assert {name: each.output for name, each in first.rewards.items()} == {
        "ppo-refresh-000005-reward-1": "judge-1",
        "ppo-refresh-000005-reward-2": "judge-2",
    }


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            ("reward: reward, label", "reward: rewards, label"),
            "no earlier reward stage 'rewards'; did you mean reward?",
        ),
        (("reward: reward, label", "reward: sft, label"), "no earlier reward stage 'sft'"),
        (
            ("scorer: gold}}", "scorer: gould}}"),
            "the reward service hosts no scorer 'gould'; did you mean gold?",
        ),
        (("every: 5", "every: 0"), "must be at least 1, is 0"),
    ],
)
def test_a_refresh_that_cannot_be_is_refused(tmp_path: Path, change: tuple[str, str], fault: str) -> None:
    assert change[0] in ROUNDS
    assert any(fault in each for each in faults_of(tmp_path, SMALL + ROUNDS.replace(*change)))


def test_who_labels_for_a_refresh_is_a_service_of_its_stage(tmp_path: Path) -> None:
    judged = ROUNDS.replace("{kind: simulated, scorer: gold}", "{kind: judge}")
    assert any("a stage asks the judge" in each for each in faults_of(tmp_path, SMALL + judged))
