"""Refreshes of reward models in a recipe: which stages they are made of, and which cannot be."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.ledger import Ledger, open_engine, sqlite_url
from orchestrator.recipe import load_recipe
from orchestrator.refreshes import all_stages, collected_for, critics_needed, refreshes_of, version_before
from orchestrator.stages.collect import held_out_sides
from orchestrator.stages.refresh import sides
from tests.orchestrator.test_ledger import COMPARISON
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


def test_a_second_stage_refreshes_the_reward_model_on_what_the_first_one_collected_too(
    tmp_path: Path,
) -> None:
    more = ROUNDS.replace("  ppo:\n", "  more:\n").replace("output: policy", "output: further")
    recipe = load_recipe(written(tmp_path, SMALL + ROUNDS + more))
    first = ["ppo-refresh-000005", "ppo-refresh-000010"]
    assert collected_for(recipe, "ppo-refresh-000010-reward") == ["comparisons", *first]
    fresh = [*first, "more-refresh-000005"]
    assert collected_for(recipe, "more-refresh-000005-reward") == ["comparisons", *fresh]


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
        (
            ("{kind: simulated, scorer: gold}}", "{kind: judge, gold_scorer: gould}}"),
            "the reward service hosts no scorer 'gould'; did you mean gold?",
        ),
        (("every: 5", "every: 0"), "must be at least 1, is 0"),
    ],
)
def test_a_refresh_that_cannot_be_is_refused(tmp_path: Path, change: tuple[str, str], fault: str) -> None:
    assert change[0] in ROUNDS
    assert any(fault in each for each in faults_of(tmp_path, SMALL + ROUNDS.replace(*change)))


def test_a_stage_begins_its_critic_from_the_same_version_after_its_own_refreshes_made_others(
    tmp_path: Path,
) -> None:
    with_critic = ROUNDS.replace("scorer: judge\n", "scorer: judge\n    critic: judge\n")
    more = with_critic.replace("  ppo:\n", "  more:\n").replace("output: policy", "output: further")
    recipe = load_recipe(written(tmp_path, SMALL + with_critic + more))
    ledger = Ledger(open_engine(sqlite_url(tmp_path)), "r")
    ledger.create(seed=0, recipe={}, recipe_sha256="r", code_sha256="c")
    ledger.take_lease()
    assert version_before(recipe, ledger, "ppo", "judge") is None and critics_needed(recipe, ledger) == set()

    def begins_from(stage: str) -> int:
        row = version_before(recipe, ledger, stage, "judge")
        return int(row["number"]) if row else 0

    for number, stage in enumerate(["reward", *(f"ppo-refresh-{n:06d}-reward" for n in (5, 10))], 1):
        ledger.add_version("judge", 12 * number, str(number), f"/judge/{number}", stage, 12)
        assert begins_from("ppo") == 12 and begins_from("more") == 12 * number
    ledger.begin_stage("ppo", "ppo", 3)
    assert critics_needed(recipe, ledger) == {("judge", 12), ("judge", 36)}
    ledger.finish_stage("ppo", {})
    ledger.begin_stage("more", "ppo", 4)
    ledger.add_version("judge", 48, "4", "/judge/4", "more-refresh-000005-reward", 12)
    assert critics_needed(recipe, ledger) == {("judge", 36)}
    ledger.finish_stage("more", {})
    assert critics_needed(recipe, ledger) == set()


def test_prompts_stay_on_the_side_on_which_others_that_begin_alike_are() -> None:
    rows = [{"prompt": {"text": text}} for text in ("known", "out", "new", "new", "newer", "newest")]
    drawn = held_out_sides(rows, 0.5, 3, None)
    assert sum(drawn) == 3
    known = {"known": False, "out": True}
    sides = held_out_sides(rows, 0.5, 3, known)
    assert sides == [False, True, drawn[2], drawn[2], *drawn[4:]]
    assert known == {"known": False, "out": True}
    assert {held_out_sides(rows, 0.5, seed, known)[0] for seed in range(9)} == {False}
    alike = {tuple(held_out_sides(rows, 0.5, seed, known)[2:4]) for seed in range(9)}
    assert alike == {(False, False), (True, True)}


def test_a_prompt_that_is_held_out_anywhere_is_so_under_every_name(tmp_path: Path) -> None:
    ledger = Ledger(open_engine(sqlite_url(tmp_path)), "r")
    ledger.create(seed=0, recipe={}, recipe_sha256="r", code_sha256="c")
    ledger.take_lease()
    for collection, kept in {
        "a": [("prompt-1f", "x", True), ("p2", "y", False)],
        "b": [("row-7", "x", False), ("p3", "z", True)],
        "own": [("p4", "w", True)],
    }.items():
        rows = [{"prompt_id": name, "prompt": {"text": text}, "held_out": out} for name, text, out in kept]
        ledger.add_comparisons(collection, [{**COMPARISON, **row} for row in rows])
    assert sides(SimpleNamespace(ledger=ledger), "own") == {"x": True, "y": False, "z": True}  # type: ignore[arg-type]


def test_who_labels_for_a_refresh_is_a_service_of_its_stage(tmp_path: Path) -> None:
    judged = ROUNDS.replace("{kind: simulated, scorer: gold}", "{kind: judge}")
    assert any("a stage asks the judge" in each for each in faults_of(tmp_path, SMALL + judged))
