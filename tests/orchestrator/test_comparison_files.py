"""Comparisons written for others and read again; duplicates, contradictions and cycles; rankings."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.__main__ import main
from orchestrator.comparison_files import NoShape, exported, oddities
from orchestrator.data import DataError, read_comparisons
from orchestrator.shapes import prompt_part
from orchestrator.stages.comparisons import by_prompt
from tests.orchestrator.test_import import begun, imported, written

HH = Path(__file__).resolve().parents[3] / "shared" / "data" / "hh-rlhf" / "harmless-base.jsonl.gz"
CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes ?"}]


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def round_trip(directory: Path, rows: list[Any], shape: str) -> tuple[list[Any], list[Any]]:
    """(what was read first, what is read of its export)"""
    first = read_comparisons(Path(written(directory, rows, "given.jsonl")), shape="auto", bad_rows=10**6)
    kept = [{**row, "source": "person", "held_out": False} for row in by_prompt(first, seed=3)]
    out = written(directory, list(exported(kept, shape)), "exported.jsonl")
    return list(first), list(read_comparisons(Path(out), shape="auto"))


@pytest.mark.parametrize(
    ("rows", "shape"),
    [
        ([{"prompt": "a", "chosen": "x", "rejected": "y"}], "trl"),
        ([{"prompt": CHAT[:1], "chosen": said("x"), "rejected": said("y")}], "trl"),
        ([{"chosen": "\n\nHuman: a\n\nAssistant: x", "rejected": "\n\nHuman: a\n\nAssistant: y"}], "hh"),
        (
            [{"text": "a", "chosen": "x", "rejected": "y"}, {"text": "a", "chosen": "z", "rejected": "y"}],
            "plain",
        ),
    ],
)
def test_what_is_exported_reads_as_what_was_imported(tmp_path: Path, rows: list[Any], shape: str) -> None:
    first, again = round_trip(tmp_path, rows, shape)
    keys = ("messages", "text", "chosen", "rejected")
    assert [{k: row[k] for k in keys if k in row} for row in again] == first


def compared(responses: list[str], prompt: dict[str, Any]) -> dict[str, Any]:
    """A row of a collection."""
    known = {"prompt_id": "p", "source": "judge", "held_out": False, "preferences": [[0, 1, 0.9]]}
    return {**known, "prompt": prompt, "responses": responses}


ASKED = {"messages": CHAT[:1]}
ODD = [
    (["fine.\n\nHuman: and you?", "bad"], ASKED, "a turn of its own"),
    (["fine.\n\nAssistant: more", "bad"], ASKED, "a turn of its own"),
    (["ok\n\nHuman: x\n\nAssistant: y", "ok\n\nHuman: x\n\nAssistant: z"], ASKED, "a turn of its own"),
    (["fine.\n\nAssistant: more", "bad"], {"text": "\n\nHuman: a\n\nAssistant:"}, "a turn of its own"),
    (["a", "b"], {"messages": [{"role": "user", "content": "see:\n\nAssistant: no"}]}, "a turn of its own"),
    ([" a ", "b\n"], ASKED, "no blanks around a turn"),
    (["a ", "a"], ASKED, "no blanks around a turn"),
    (["", "b"], ASKED, "an empty response has no place in hh"),
    (["a\n\n Human: b", "Human: a"], ASKED, ""),
]


@pytest.mark.parametrize(("responses", "prompt", "why"), ODD)
def test_an_export_comes_back_equal_or_is_refused(
    tmp_path: Path, responses: list[str], prompt: dict[str, Any], why: str
) -> None:
    row = compared(responses, prompt)
    if why:
        with pytest.raises(NoShape, match=f"p: .*{why}.*"):
            list(exported([row], "hh"))
    for shape in ("plain",) if why else ("plain", "hh"):
        out = written(tmp_path, list(exported([row], shape)), f"{shape}.jsonl")
        (back,) = read_comparisons(Path(out), shape="auto")
        assert [back["chosen"], back["rejected"]] == responses and prompt_part(back) == prompt


def test_an_empty_response_is_missing_unless_somebody_said_how_good_it_is(tmp_path: Path) -> None:
    row = {"text": "a", "chosen": "x", "rejected": ""}
    with pytest.raises(DataError, match="rejected: must be text that is not empty"):
        read_comparisons(Path(written(tmp_path, [row])))
    assert len(read_comparisons(Path(written(tmp_path, [{**row, "probability": 0.9}])))) == 1
    with pytest.raises(NoShape, match="p: an empty response has no place in trl; export plain"):
        list(exported([compared(["x", ""], ASKED)], "trl"))


def test_hh_rlhf_comes_back_equal(tmp_path: Path) -> None:
    if not HH.is_file():
        pytest.skip("HH-RLHF's comparisons are not on this machine")
    with gzip.open(HH, "rt") as file:
        rows = [json.loads(line) for line in file]
    first, again = round_trip(tmp_path, rows, "hh")
    assert len(first) > 500

    def as_key(row: dict[str, Any]) -> str:
        return json.dumps({k: row[k] for k in ("messages", "chosen", "rejected")}, sort_keys=True)

    assert sorted(map(as_key, again)) == sorted(map(as_key, first))


def test_a_ranking_is_kept_whole_and_compares_every_pair(tmp_path: Path) -> None:
    ranking = {"text": "a", "responses": ["x", "y", "z"], "ranking": [2, 0, 1]}
    run = begun(tmp_path, written(tmp_path, [ranking]), held_out_share=0.0)
    result, (row,) = imported(run)
    assert result["comparisons"] == 3 and sorted(row["responses"]) == ["x", "y", "z"]
    beaten = [(row["responses"][i], row["responses"][j]) for i, j, _ in row["preferences"]]
    assert beaten == [("z", "x"), ("z", "y"), ("x", "y")]
    assert [[row["responses"][i] for i in each] for each in row["rankings"]] == [["z", "x", "y"]]


@pytest.mark.parametrize("shape", ["plain", "trl"])
def test_annotator_scores_and_margin_are_kept_and_exported(tmp_path: Path, shape: str) -> None:
    """Each beside its own pair; TRL's own columns have room for the numbers alone."""
    prompt = {"text": "a"} if shape == "plain" else {"prompt": "a"}
    numbers = {"margin": 1.5, "score_chosen": 4, "score_rejected": 2.5}
    given = [
        {**prompt, "chosen": "x", "rejected": "y", "annotator": "ann", **numbers},
        {**prompt, "chosen": "z", "rejected": "y"},
    ]
    _, (row,) = imported(begun(tmp_path, written(tmp_path, given), held_out_share=0.0))
    assert row["details"] == [{"annotator": "ann", **numbers}, {}] and row["rankings"] == []
    first, second = exported([row], shape)
    assert {key: first[key] for key in numbers} == numbers and not set(second) & set(numbers)
    assert ("annotator" in first) == (shape == "plain")


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"text": "a", "responses": ["x"], "ranking": [0]}, "at least two"),
        ({"text": "a", "responses": ["x", "x"], "ranking": [0, 1]}, "the same text"),
        ({"text": "a", "responses": ["x", "y"], "ranking": [0, 0]}, "each of 0 to 1 once"),
        ({"text": "a", "chosen": "x", "rejected": "y", "probability": 1.5}, "from 0 to 1"),
        ({"text": "a", "chosen": "x", "rejected": "y", "margin": "wide"}, "margin: must be a number"),
        ({"text": "a", "chosen": "x", "rejected": "y", "annotator": 7}, "annotator: must be text"),
        ({"chosen": "x", "rejected": "y", "text": " "}, "not empty"),
    ],
)
def test_a_row_of_the_wrong_shape_is_named_with_its_line(
    tmp_path: Path, row: dict[str, Any], fault: str
) -> None:
    with pytest.raises(DataError, match=f"line 1: .*{fault}"):
        read_comparisons(Path(written(tmp_path, [row])), shape="plain")


def test_duplicates_contradictions_and_cycles_are_told() -> None:
    preferences = [[0, 1, 1.0], [1, 2, 0.9], [0, 1, 1.0], [0, 2, 0.1], [3, 0, 1.0], [0, 3, 1.0]]
    row = {"prompt_id": "p", "responses": ["a", "b", "c", "d"], "preferences": preferences}
    found = [(each.kind, each.responses) for each in oddities([row])]
    assert found == [
        ("duplicate", ("a", "b")),
        ("contradiction", ("a", "d")),
        ("cycle", ("a", "b", "c", "a")),
    ]
    straight = {**row, "preferences": [[0, 1, 1.0], [1, 2, 1.0], [0, 2, 1.0]]}
    assert list(oddities([straight])) == []


def test_the_commands_write_and_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    rows = [{"text": "a", "chosen": "x", "rejected": "y"}, {"text": "a", "chosen": "y", "rejected": "x"}]
    given = written(tmp_path, rows)
    imported(begun(tmp_path / "run", given, held_out_share=0.0))
    (tmp_path / "run").rename(tmp_path / "import")  # the run's name is the ledger's key
    out = tmp_path / "out.jsonl"
    assert main(["export-comparisons", "import", str(out), "--shape", "trl", "--runs", str(tmp_path)]) == 0
    assert [json.loads(line) for line in out.read_text().splitlines()] == [
        {"prompt": "a", "chosen": "x", "rejected": "y"},
        {"prompt": "a", "chosen": "y", "rejected": "x"},
    ]
    assert main(["export-comparisons", "import", str(out), "--shape", "hh", "--runs", str(tmp_path)]) == 1
    assert "is a text, and no transcript" in capsys.readouterr().err
    for what in ("import", given):
        assert main(["check-comparisons", what, "--runs", str(tmp_path)]) == 1
        assert "contradiction 1" in capsys.readouterr().out


def test_a_check_tells_what_cannot_be_used_and_knows_a_prompt_by_what_it_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"text": "q1", "chosen": "a", "rejected": "b"},
        {"text": "q2", "chosen": "a", "rejected": "a"},
        {"text": "q3", "chosen": "a"},
        {"chosen": "a", "rejected": "b"},
        {"prompt_id": "x1", "text": "q1", "chosen": "b", "rejected": "a"},
        {"prompt_id": "x2", "text": "q1", "chosen": "a", "rejected": "b"},
    ]
    assert main(["check-comparisons", written(tmp_path, rows), "--runs", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert "3 comparisons of 1 prompts: contradiction 1, duplicate 1, unusable rows 3" in told
    assert "line 2: chosen and rejected: are the same text" in told and "line 4: must have either" in told
    good = [rows[0], {"prompt_id": "x1", "text": "q4", "chosen": "b", "rejected": "a"}]
    assert main(["check-comparisons", written(tmp_path, good), "--runs", str(tmp_path)]) == 0
    assert "2 comparisons of 2 prompts: nothing odd" in capsys.readouterr().out
    assert main(["check-comparisons", written(tmp_path, [rows[0], rows[1]]), "--runs", str(tmp_path)]) == 1


def test_the_likelier_response_is_the_chosen_one_and_a_tie_is_none() -> None:
    row = {
        "prompt_id": "p",
        "prompt": {"text": "a"},
        "responses": ["x", "y"],
        "source": "s",
        "held_out": False,
    }
    known = {"margin": 0.4, "score_chosen": 2.0, "score_rejected": 1.6}
    rows = [{**row, "preferences": [[0, 1, 0.1]], "details": [known]}]
    (written_out,) = exported(rows, "trl")
    told = {"margin": -0.4, "score_chosen": 1.6, "score_rejected": 2.0}
    assert written_out == {"prompt": "a", "chosen": "y", "rejected": "x", **told}
    (whole,) = exported(rows, "plain")
    assert (whole["chosen"], whole["probability"], whole["margin"]) == ("x", 0.1, 0.4)
    with pytest.raises(NoShape, match="p: a tie has no place in trl"):
        list(exported([{**row, "preferences": [[0, 1, 0.5]]}], "trl"))
    ties = [{**row, "preferences": [[0, 1, 0.5], [1, 0, 0.5]]}]
    assert list(oddities(ties)) == [], "ties contradict nothing"
