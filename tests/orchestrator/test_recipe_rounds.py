"""Settings of rounds that a recipe may not have together."""

import re

import pytest

from orchestrator.recipe import RecipeError, load_recipe
from tests.orchestrator.test_recipe import HELPDESK


@pytest.mark.parametrize(
    ("recipe", "overrides", "fault"),
    [
        (
            "ppo",
            ["ppo.algorithm.kl_target=6", "ppo.algorithm.kl_coefficient=0"],
            "must be above 0 where kl_target",
        ),
        (
            "ppo",
            ["ppo.algorithm.kl_target=6", "ppo.algorithm.kl_horizon=25.6"],
            "kl_horizon must be above 25.6",
        ),
        (
            "dpo",
            ["dpo.label={kind: scorer, scorer: gold}", "dpo.pairs_per_prompt=3"],
            "pairs_per_prompt must be at most 2 (the best against the worst",
        ),
        ("dpo", ["dpo.pairs_per_prompt=7"], "pairs_per_prompt must be at most 6 (the pairs of 4 responses)"),
        ("dpo", ["dpo.sampling.top_p=0.9"], "kl_budget_soft and kl_budget_hard must be 0"),
        ("dpo", ["dpo.sampling.top_k=50"], "kl_budget_soft and kl_budget_hard must be 0"),
    ],
)
def test_settings_that_would_do_nothing_or_end_a_run_late_are_refused(
    recipe: str, overrides: list[str], fault: str
) -> None:
    path = HELPDESK.with_name(f"helpdesk-{recipe}.yaml")
    with pytest.raises(RecipeError, match=re.escape(fault)):
        load_recipe(path, [f"stages.{each}" for each in overrides])
