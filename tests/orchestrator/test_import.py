"""Imported comparisons in the ledger, and data sets copied into the run."""

import asyncio
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.data import DataError, file_sha256
from orchestrator.drive import data_digests
from orchestrator.ledger import Ledger, open_engine, sqlite_url
from orchestrator.mending import Mending
from orchestrator.peers import Peers
from orchestrator.progress import PlainProgress
from orchestrator.recipe import RecipeError, load_recipe
from orchestrator.recipe_settings import DataSettings, Supervision
from orchestrator.run import Run, RunError
from orchestrator.sources import copy_datasets, source_path
from orchestrator.stages.comparisons import by_prompt, held_out_prompts, run_comparisons


def begun(directory: Path, data: Any, **settings: Any) -> Run:
    """A run of one stage that imports `data`."""
    stage = {"kind": "comparisons", "data": data, "output": "compared", **settings}
    recipe = directory / "recipe.yaml"
    recipe.write_text(json.dumps({"name": "import", "stages": {"collect": stage}}))
    ledger = Ledger(open_engine(sqlite_url(directory)), "import")
    ledger.create(seed=0, recipe={}, recipe_sha256="", code_sha256="")
    ledger.take_lease()
    peers = Peers({name: [] for name in ("policy", "reference", "reward", "trainer")})
    mending = Mending(Supervision(), asyncio.Event(), print)
    progress = PlainProgress(io.StringIO())
    return Run(load_recipe(recipe, run_dir=directory), directory, ledger, peers, progress, mending)


def imported(run: Run) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(the stage's result, the ledger's rows)"""
    settings: Any = run.recipe.stages["collect"]
    return asyncio.run(run_comparisons(run, "collect", settings)), run.ledger.all_comparisons("compared")


def written(directory: Path, rows: list[Any], name: str = "rows.jsonl") -> str:
    (directory / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(directory / name)


def pair(prompt: str, chosen: str = "yes", rejected: str = "no") -> dict[str, str]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def test_comparisons_of_one_prompt_become_one_row_that_says_who_beat_whom(tmp_path: Path) -> None:
    run = begun(tmp_path, written(tmp_path, [pair("a"), pair("b"), pair("a", "maybe")]), held_out_share=0.0)
    result, rows = imported(run)
    assert result == {"prompts": 2, "comparisons": 3, "held_out_prompts": 0}
    first = rows[0]
    assert first["prompt"] == {"text": "a"} and sorted(first["responses"]) == ["maybe", "no", "yes"]
    beaten = [[first["responses"][i], first["responses"][j], p] for i, j, p in first["preferences"]]
    assert beaten == [["yes", "no", 1.0], ["maybe", "no", 1.0]]
    assert first["source"] == "person" and len({row["prompt_id"] for row in rows}) == 2
    assert imported(run)[1] == rows, "importing again after a crash changes nothing"


def test_the_place_of_a_response_does_not_tell_that_it_was_chosen() -> None:
    rows = [{"text": f"p{i}", "chosen": "yes", "rejected": "no"} for i in range(200)]
    first = sum(row["responses"][0] == "yes" for row in by_prompt(rows, seed=0))
    assert 70 < first < 130


def test_prompts_that_begin_alike_are_held_out_together() -> None:
    rows = [
        {"prompt_id": f"{family}-{turn}", "prompt": {"text": f"\n\nHuman: {family}\n\nAssistant: {turn}"}}
        for family in range(50)
        for turn in range(4)
    ]
    held_out = held_out_prompts(rows, 0.2, seed=0)
    assert len(held_out) == 40
    assert len({name.partition("-")[0] for name in held_out}) == 10
    assert held_out != held_out_prompts(rows, 0.2, seed=1)


def test_rows_named_as_held_out_are_and_may_not_train_too(tmp_path: Path) -> None:
    training = written(tmp_path, [pair("a"), pair("b")])
    apart = written(tmp_path, [pair("c")], "apart.jsonl")
    _, rows = imported(begun(tmp_path, training, held_out_data=apart))
    assert [(row["prompt"]["text"], row["held_out"]) for row in rows] == [
        ("a", False),
        ("b", False),
        ("c", True),
    ]
    (tmp_path / "ledger.db").unlink()
    shared = written(tmp_path, [pair("b", "other")], "shared.jsonl")
    with pytest.raises(RunError, match=r"held_out_data: 1 of its prompts are in data too"):
        imported(begun(tmp_path, training, held_out_data=shared))
    (tmp_path / "ledger.db").unlink()
    renamed = written(tmp_path, [{**pair("b", "other"), "prompt_id": "x"}, pair("c")], "renamed.jsonl")
    with pytest.raises(RunError, match=r"1 of its prompts are in data too, the first: x"):
        imported(begun(tmp_path, training, held_out_data=renamed))


def test_rows_that_were_left_out_are_told_in_the_report(tmp_path: Path) -> None:
    path = written(tmp_path, [pair("a"), {"prompt": "b"}, pair("c")])
    run = begun(tmp_path, {"path": path, "shape": "trl", "bad_rows": 1}, held_out_share=0.0)
    assert imported(run)[0]["comparisons"] == 2
    (note,) = run.ledger.info()["notes"]
    assert "1 rows of the wrong shape were left out: line 2: chosen: is missing" in note


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The library, with its cache beside the test's files."""
    library = pytest.importorskip("datasets")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return library


def test_a_data_set_is_copied_once_and_read_from_the_run_for_ever(tmp_path: Path, datasets: Any) -> None:
    saved = tmp_path / "saved"
    rows = written(tmp_path, [pair("a"), pair("b")])
    made = datasets.load_dataset("json", data_files=rows, split="train")
    made.save_to_disk(str(saved))
    run = begun(tmp_path, {"dataset": str(saved), "shape": "trl"}, held_out_share=0.0)
    copy_datasets(run.recipe, tmp_path)
    copy = source_path(DataSettings(dataset=str(saved), shape="trl"), tmp_path)
    assert data_digests(run.recipe, tmp_path) == {str(copy): file_sha256(copy)}
    for file in saved.iterdir():
        file.unlink()
    copy_datasets(run.recipe, tmp_path)
    assert [row["prompt"]["text"] for row in imported(run)[1]] == ["a", "b"]


def test_a_directory_of_jsonl_files_is_a_data_set_with_splits(tmp_path: Path, datasets: Any) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    written(folder, [pair("a")], "train.jsonl")
    written(folder, [pair("b"), pair("c")], "test.jsonl")
    run = begun(tmp_path, {"dataset": str(folder), "split": "test"}, held_out_share=0.0)
    copy_datasets(run.recipe, tmp_path)
    assert [row["prompt"]["text"] for row in imported(run)[1]] == ["b", "c"]


def test_a_data_set_that_cannot_be_had_is_told_and_leaves_no_copy(
    tmp_path: Path, datasets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(tmp_path, {"dataset": str(tmp_path / "nowhere")})
    with pytest.raises(DataError, match="cannot be loaded as a data set"):
        copy_datasets(run.recipe, tmp_path)
    assert not list(tmp_path.glob("data/*.jsonl"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"needs the datasets package: pip install -e"):
        copy_datasets(run.recipe, tmp_path)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        ({}, "stages.collect.data: give either path or dataset"),
        ({"path": "a", "dataset": "b"}, "stages.collect.data: give either path or dataset"),
        ({"path": "absent.jsonl"}, "stages.collect.data.path: no such file: "),
        ({"dataset": "b", "shape": "dpo"}, "stages.collect.data.shape: must be 'auto', "),
        ({"dataset": "b", "splt": "x"}, "stages.collect.data.splt: unknown key; did you mean split?"),
        ({"dataset": "b", "bad_rows": -1}, "stages.collect.data.bad_rows: must be at least 0, is -1"),
        ({"path": "absent.jsonl", "revision": "x"}, "stages.collect.data: subset and revision belong to a d"),
        (3, "stages.collect.data: must be text, is 3"),
        ("{perpared}/x", "stages.collect.data: unknown placeholder {perpared}; did you mean prepared?"),
        ({"path": "{perpared}/x"}, "stages.collect.data.path: unknown placeholder {perpared}; did you mean"),
    ],
)
def test_a_fault_in_how_data_is_named_is_told_by_its_path(data: Any, fault: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    stage = {"kind": "comparisons", "data": data, "output": "compared"}
    recipe.write_text(json.dumps({"name": "faulty", "stages": {"collect": stage}}))
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe)
    assert any(each.startswith(fault) for each in caught.value.faults), caught.value.faults


def test_placeholders_in_data_become_paths_of_the_run(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    stage = {"kind": "comparisons", "data": {"path": "{prepared}/x.jsonl"}, "output": "compared"}
    content = {"name": "placed", "prepare": {"command": ["true"]}, "stages": {"collect": stage}}
    recipe.write_text(json.dumps(content))
    data: Any = load_recipe(recipe, run_dir=tmp_path / "run").stages["collect"].data  # type: ignore[union-attr]
    assert data.path == str(tmp_path / "run" / "prepared" / "x.jsonl")
