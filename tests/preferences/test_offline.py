"""Learning from a collection of comparisons: any loss, and the order of the pairs that never train."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator import training
from orchestrator.recipe import RecipeError, load_recipe
from orchestrator.recipe_algorithms import MISMATCHED, REFERENCE_FREE, SMOOTHED, SOFT, PreferenceAlgorithm
from orchestrator.recipe_rounds import PreferenceStage
from orchestrator.run import RunError
from orchestrator.stages.preference import run_preference
from orchestrator.summary import summarise
from services.trainer.preference_losses import PREFERENCE_LOSSES
from tests.preferences.whole_run import ALGORITHM, recipe, recounted, whole_run

OFFLINE: dict[str, Any] = {
    "kind": "preference",
    "policy": "start",
    "reference": "start",
    "comparisons": "compared",
    "output": "policy",
    "rows_per_step": 4,
    "epochs": 3,
    "algorithm": {**ALGORITHM, "minibatch_size": 4, "beta": 0.5},
}
IMPORT: dict[str, Any] = {"kind": "comparisons", "output": "compared"}


def comparisons() -> list[dict[str, Any]]:
    """Answers that begin with w1 are better than those that begin with w2."""
    return [
        {
            "prompt_id": f"p{i}",
            "prompt": {"text": f"w{i} w3"},
            "responses": [f"w2 w{i}", f"w1 w{i}"],
            "preferences": [[1, 0, 1.0]],
            "policy_version": {},
            "source": "person",
            "held_out": i >= 8,
        }
        for i in range(12)
    ]


async def learned(
    directory: Path, stage: dict[str, Any], rows: list[dict[str, Any]] | None = None
) -> tuple[dict[str, Any], Any]:
    """(what the stage made of these comparisons, its run)"""
    data = directory / "rows.jsonl"
    data.write_text('{"text": "w1", "chosen": "w2", "rejected": "w3"}\n')
    stages = {"compare": {**IMPORT, "data": str(data)}, "preference": stage}
    async with whole_run(directory, stages) as run:
        run.ledger.add_comparisons("compared", rows or comparisons())
        run.ledger.finish_stage("compare", {})
        run.ledger.begin_stage("preference", "preference", 2)
        settings = run.recipe.stages["preference"]
        assert isinstance(settings, PreferenceStage)
        result = await run_preference(run, "preference", settings)
        run.ledger.finish_stage("preference", result)
        assert await run_preference(run, "preference", settings) == result, "and nothing is done again"
    return result, run


@pytest.mark.parametrize("loss", ["dpo", "ipo", "kto", "orpo", "simpo"])
async def test_held_out_pairs_are_ordered_as_labelled(tmp_path: Path, loss: str) -> None:
    stage = {**OFFLINE, "algorithm": {**OFFLINE["algorithm"], "loss": loss}}
    if loss in REFERENCE_FREE:
        stage["reference"] = None
    result, run = await learned(tmp_path, stage)
    assert result["steps"] == 6 and result["comparisons"] == 8 and result["loss"] == loss
    assert result["held_out"]["pairs"] == 4 and result["held_out"]["accuracy"] == 1.0
    assert recounted(run).findings == []
    report = summarise(run.ledger)["preference"]
    assert report["heldout_accuracy"]["value"] == 1.0 and report["heldout_accuracy"]["n"] == 4


async def test_batches_that_outgrow_messages_go_as_files_and_give_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, measured = [], []
    for limit in (training.LARGEST_INLINE_BYTES, 0):
        monkeypatch.setattr(training, "LARGEST_INLINE_BYTES", limit)
        directory = tmp_path / str(limit)
        directory.mkdir()
        result, run = await learned(directory, dict(OFFLINE))
        weights.append((run.ledger.latest_version("policy") or {})["sha256"])
        measured.append(result["held_out"])
        assert recounted(run).findings == []
        assert not [path for path in run.directory.glob("rollouts/**/*") if path.is_file()]
    assert weights[0] == weights[1] and measured[0] == measured[1]


def odd(training: int, held_out: int = 0, ties: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    """As many comparisons, some of which nobody could decide."""
    return [
        {
            **row,
            "held_out": place >= training,
            "preferences": [[1, 0, 0.5 if place in ties else 1.0]],
        }
        for place, row in enumerate(comparisons()[: training + held_out])
    ]


@pytest.mark.parametrize(
    ("loss", "rows", "rows_per_step", "steps"),
    [
        ("kto", odd(9), 4, 2),
        ("kto", odd(8, held_out=1), 4, 2),
        ("kto", odd(5), 1, 2),
        ("dpo", odd(8, held_out=1, ties=(8,)), 4, 2),
        ("dpo", odd(12, ties=(1, 5, 9, 10)), 1, 8),
        ("soft_dpo", odd(12, ties=(1, 5, 9, 10)), 1, 12),
    ],
)
async def test_a_step_or_a_measurement_with_nothing_to_learn_from_ends_no_run(
    tmp_path: Path, loss: str, rows: list[dict[str, Any]], rows_per_step: int, steps: int
) -> None:
    """kto needs two prompts, a hard loss a pair that is no tie: such a step joins its neighbour."""
    stage = {**OFFLINE, "rows_per_step": rows_per_step, "epochs": 2}
    stage["algorithm"] = {**OFFLINE["algorithm"], "loss": loss}
    result, run = await learned(tmp_path, stage, rows)
    trained = [row.metrics for row in run.ledger.all_rounds("preference")]
    assert result["steps"] == len(trained) == 2 * steps
    batches = [row["rows"] + row["excluded"] for row in trained]
    assert sum(batches[:steps]) == sum(batches[steps:]) == sum(not row["held_out"] for row in rows)
    assert result["held_out"].get("pairs", 0) == 0 and "accuracy" not in result["held_out"]
    assert "heldout_accuracy" not in summarise(run.ledger)["preference"]
    assert recounted(run).findings == []


async def test_a_collection_of_which_nothing_can_be_learned_is_refused_before_a_step(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="has nothing that dpo learns from: ties alone"):
        await learned(tmp_path, OFFLINE, odd(5, ties=(0, 1, 2, 3, 4)))


async def test_another_batch_than_the_collections_is_found(tmp_path: Path) -> None:
    _, run = await learned(tmp_path, OFFLINE)
    rows = run.ledger.all_rows()
    row = next(each for each in rows["phases"] if each["phase"] == "trained" and each["round"] == 2)
    row["output"]["batch_sha256"] = "f" * 64
    run.ledger.all_rows = lambda: rows  # as somebody would have changed them
    found = [(each.kind, each.where) for each in recounted(run).findings]
    assert found == [("batch_changed", "preference 2 trained")]


def test_a_loss_has_its_reference_and_takes_what_it_takes(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="reference is required: dpo compares with one"):
        load_recipe(recipe(tmp_path, {"preference": {**OFFLINE, "reference": None}}))
    simpo = {**OFFLINE["algorithm"], "loss": "simpo", "label_smoothing": 0.1}
    with pytest.raises(RecipeError, match="label_smoothing must be 0: simpo takes none"):
        load_recipe(recipe(tmp_path, {"preference": {**OFFLINE, "algorithm": simpo}}))


def test_what_recipes_know_of_the_losses_is_what_the_trainer_says() -> None:
    assert set(PREFERENCE_LOSSES) == set(PreferenceAlgorithm.model_fields["loss"].annotation.__args__)  # type: ignore[union-attr]
    by = {name: {loss for loss, row in PREFERENCE_LOSSES.items() if getattr(row, name)} for name in
          ("reference", "mismatched", "smoothed", "soft")}  # fmt: skip
    assert set(PREFERENCE_LOSSES) - by["reference"] == set(REFERENCE_FREE)
    assert by["mismatched"] == set(MISMATCHED) and by["smoothed"] == set(SMOOTHED)
    assert by["soft"] == set(SOFT)
