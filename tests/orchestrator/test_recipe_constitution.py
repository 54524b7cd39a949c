"""Recipes whose stages ask the judge: what must be there before; how the two constitutional ones differ."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.recipe import RecipeError, load_recipe
from services.judge.constitution import read_constitution

RECIPES = Path(__file__).parents[2] / "recipes"
HELPDESK, REAL = RECIPES / "helpdesk-constitution.yaml", RECIPES / "hf-constitution.yaml"
# Of the helpdesk alone: what makes its models, and what measures them against a gold score.
OF_THE_WORLD = {"pretrain", "sft", "judge", "judge-check"}
GOLD = {
    "gold_scorer",
    "gold_prompts",
    "gold_every",
    "gold_limit",
    "best_scorer",
    "ceilings",
    "agreement_scorer",
}


def shape(value: Any) -> Any:
    """The names of artifacts and settings, without numbers, data and gold."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items() if key not in GOLD and inner is not None}
    return type(value).__name__


def stages(path: Path) -> dict[str, dict[str, Any]]:
    return {k: v for k, v in load_recipe(path).declared["stages"].items() if k not in OF_THE_WORLD}


def test_the_recipe_for_a_real_model_differs_in_names_and_addresses_only() -> None:
    ours, theirs = stages(HELPDESK), stages(REAL)
    assert list(ours) == list(theirs)
    named = (
        "kind",
        "policy",
        "init",
        "reference",
        "critic",
        "scorer",
        "output",
        "comparisons",
        "demonstrations",
    )
    for name in ours:
        for key in named:
            assert ours[name].get(key) == theirs[name].get(key), f"{name}.{key}"
        data = {"prompts"}  # a path here, a data set there
        one, other = (
            {k: v for k, v in shape(each[name]).items() if k not in data} for each in (ours, theirs)
        )
        assert one == other, name
    judges = [load_recipe(path).services.judge for path in (HELPDESK, REAL)]
    assert judges[0].model == "judge" and judges[1].endpoint and judges[1].endpoint_model


@pytest.mark.parametrize("path", [HELPDESK, REAL])
def test_the_constitution_that_a_recipe_names_has_what_its_stages_ask_for(path: Path) -> None:
    constitution = read_constitution(Path(load_recipe(path).services.judge.constitution or ""))
    for text in ("compare", "critique", "revision"):
        assert any(getattr(each, text) for each in constitution.principles), text
    both = [bool(each.critique) == bool(each.revision) for each in constitution.principles]
    assert all(both), "what criticises by a principle revises by it"


def test_a_judge_is_made_before_it_is_asked() -> None:
    declared = load_recipe(HELPDESK).declared
    order = [name for name in declared["stages"] if name != "judge"]
    moved = {name: declared["stages"][name] for name in [*order, "judge"]}
    with pytest.raises(ValueError, match="stages.judge-check asks the judge before 'judge' is made"):
        load_recipe(HELPDESK).model_validate({**declared, "stages": moved})


def test_a_stage_that_asks_needs_a_judge_and_revisions_a_stage_that_makes_them() -> None:
    with pytest.raises(RecipeError, match="services.judge: a stage asks the judge"):
        load_recipe(HELPDESK, ["services.judge.constitution=null"])
    with pytest.raises(RecipeError, match="stages.revised.demonstrations: no model or earlier stage makes"):
        load_recipe(HELPDESK, ["stages.revised.demonstrations=revision"])
    with pytest.raises(RecipeError, match="needs a demonstrations artifact, but stages.collect makes"):
        moved = ["stages.revise.output=others", "stages.again.kind=sft"]
        load_recipe(HELPDESK, [*moved, "stages.again.demonstrations=comparisons"])
    with pytest.raises(RecipeError, match="stages.revised: data is required"):
        load_recipe(HELPDESK, ["stages.revised.demonstrations=null"])


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("collect.label.principles=[helpfull]", "has no principle 'helpfull'; did you mean helpful?"),
        ("collect.label.tags=[harmles]", "has no tag 'harmles'; did you mean harmless?"),
        ("revise.principles=[helpful, kind]", "has no principle 'kind'"),
    ],
)
def test_a_principle_that_the_constitution_does_not_have_is_told_at_the_door(
    override: str, fault: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(REAL, [f"stages.{override}"])
    assert any(each.startswith("stages.") and fault in each for each in caught.value.faults)


def test_a_stage_whose_principles_cannot_revise_is_told_at_the_door(tmp_path: Path) -> None:
    text = (
        "name: shop\nprinciples:\n- {name: honest, critique: c, revision: r}\n"
        "- {name: kind, tags: [tone], critique: c}\n- {name: short, tags: [tone], revision: r}\n"
    )
    (tmp_path / "shop.yaml").write_text(text)
    mine = [f"services.judge.constitution={tmp_path / 'shop.yaml'}"]
    mine += ["stages.collect.label.principles=[]", "stages.collect.label.tags=[]"]
    load_recipe(REAL, mine)
    load_recipe(REAL, [*mine, "stages.revise.tags=[tone]", "stages.revise.critique=false"])
    for given in ("principles=[kind]", "tags=[tone]"):
        with pytest.raises(RecipeError, match="stages.revise: no principle .* has a critique and revision"):
            load_recipe(REAL, [*mine, f"stages.revise.{given}"])


def test_principles_that_are_there_or_cannot_be_known_are_no_fault(tmp_path: Path) -> None:
    load_recipe(REAL, ["stages.collect.label.principles=[helpful, honest]", "stages.revise.tags=[harmless]"])
    other = tmp_path / "other.yaml"
    for text in ("- a list of another shape", "name: 2024-13-01", "[" * 5000):
        other.write_text(text)
        load_recipe(REAL, [f"services.judge.constitution={other}", "stages.collect.label.principles=[mine]"])
    other.write_text("principles: [{name: mine, tags: 7, critique: c, revision: r}]")
    load_recipe(REAL, [f"services.judge.constitution={other}", "stages.collect.label.principles=[mine]"])
