"""`verify` finds nothing in a clean run, and each planted inconsistency under its name and place."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.__main__ import main
from orchestrator.recipe_retention import Retention
from orchestrator.retention import Retainer
from orchestrator.verify import verify
from services.weights import ModelVersion
from tests.orchestrator.planted import (
    PLANTED,
    change,
    checkpoint_gone,
    delete,
    rescored,
    step_skipped,
    trained,
)
from tests.orchestrator.written_run import RunWriter
from tests.postgresql_server import Server
from trueline.v1 import trainer_pb2


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> RunWriter:
    run = RunWriter(tmp_path_factory.mktemp("written") / "place").write()
    run.ledger.database.engine.dispose()
    shutil.copytree(run.directory.parent, run.directory.parent.with_name("clean"))
    return run


@pytest.fixture
def clean(written: RunWriter) -> RunWriter:
    """The one clean run, put back in its place: rows name its payloads by their whole path."""
    place = written.directory.parent
    written.ledger.database.engine.dispose()
    shutil.rmtree(place)
    shutil.copytree(place.with_name("clean"), place)
    return written


def test_a_clean_run_has_no_findings(clean: RunWriter, capsys: pytest.CaptureFixture[str]) -> None:
    runs = str(clean.directory.parent)
    assert main(["verify", "run", "--runs", runs]) == 0
    said = capsys.readouterr().out
    assert said.endswith("clean\n") and "32 sampled" in said and "31 trained" in said
    assert main(["verify", "run", "--json", "--runs", runs]) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["findings"] == []
    lengths = verdict["figures"]["lengths"]["ppo"]
    assert lengths["sampled"]["rollouts"] == 32 and lengths["trained"]["rollouts"] == 31
    assert 0 < lengths["distance"] < 0.1 and lengths["p_value"] > 0.9


@pytest.mark.parametrize(("plant", "kind", "where"), PLANTED, ids=[plant.__name__ for plant, _, _ in PLANTED])
def test_a_planted_inconsistency_is_found(
    clean: RunWriter, plant: Callable[[RunWriter], None], kind: str, where: str
) -> None:
    plant(clean)
    findings = [each.as_dict() for each in verify(clean.ledger, clean.directory).findings]
    assert any(each["kind"] == kind and where in each["where"] for each in findings), findings


def in_round_two(directory: Path) -> RunWriter:
    """A run whose second round of PPO is trained and not published."""
    run = RunWriter(directory)
    run.supervised()
    run.ledger.begin_stage("ppo", "ppo", 2)
    run.round(1)
    run.sampled(2)
    run.scored(2)
    return run


def test_a_parent_that_is_not_the_version_before_is_found(tmp_path: Path) -> None:
    run = in_round_two(tmp_path)
    run.published("ppo", "policy", 2, parent=ModelVersion("policy", 7, "f" * 64))
    (finding,) = verify(run.ledger, run.directory).findings
    assert (finding.kind, finding.where) == ("version_parent", "policy@2")
    assert finding.found.startswith("policy@7") and finding.expected == "policy@1"


def test_a_run_at_any_moment_of_a_round_is_clean(tmp_path: Path) -> None:
    run = RunWriter(tmp_path)
    run.supervised()
    run.ledger.begin_stage("ppo", "ppo", 2)
    run.round(1)
    for step in (
        lambda: run.ledger.begin_round("ppo", 2, 4),
        lambda: run.sampled(2),
        lambda: run.scored(2),
        lambda: run.published("ppo", "policy", 2),
        lambda: run.ledger.commit_round("ppo", 2, {}, 1.0),
    ):
        step()
        assert verify(run.ledger, run.directory).findings == []


def test_a_step_that_was_trained_anew_before_anybody_had_its_weights_is_accounted_for(tmp_path: Path) -> None:
    run = in_round_two(tmp_path)
    recorded = (run.ledger.phase("ppo", 2, "trained") or {})["weights_sha256"]
    again = {"weights_sha256": "a" * 64, "instead_of": recorded}
    run.ledger.finish_phase("ppo", 2, "trained-again-1", again)
    run.ledger.finish_phase("ppo", 2, "trained-again-2", {**again, "instead_of": "a" * 64})
    run.published("ppo", "policy", 2)
    run.ledger.commit_round("ppo", 2, {}, 1.0)
    assert verify(run.ledger, run.directory).findings == []
    run.ledger.finish_phase("ppo", 2, "trained-again-3", {**again, "instead_of": "b" * 64})
    found = verify(run.ledger, run.directory).findings
    assert [each.kind for each in found] == ["weights_unexplained", "weights_changed"]
    assert {each.where for each in found} == {"ppo 2 trained-again-3"}


def test_a_rollback_is_accounted_for(tmp_path: Path) -> None:
    run = RunWriter(tmp_path)
    run.supervised()
    run.ledger.begin_stage("ppo", "ppo", 2)
    good = None
    for number in (1, 2):
        run.round(number)
        good = good or run.parent
    run.sampled(3)
    run.scored(3)
    trained(run, 3, trained=False, step=2, kl_budget="stop", excluded_rows=[], excluded={})
    run.published("ppo", "policy", 3, parent=good)
    row = run.ledger.phase("ppo", 3, "published") or {}
    delete(run, "phases", stage="ppo", round=3, phase="published")
    run.ledger.finish_phase("ppo", 3, "rolled_back", {**row, "good": 1, "kl": 9.0})
    assert verify(run.ledger, run.directory).findings == [], "died in the middle of the rollback"
    run.ledger.roll_back_rounds("ppo", after=1)
    run.ledger.finish_stage("ppo", {})
    found = verify(run.ledger, run.directory)
    assert found.findings == [] and found.figures["rounds_rolled_back"] == 2
    change(run, "rounds", {"stage": "ppo", "round": 2}, status="committed")
    assert [each.kind for each in verify(run.ledger, run.directory).findings] == ["rollback_unexplained"]


def test_short_responses_that_train_alone_are_a_bias(tmp_path: Path) -> None:
    """Every response above 2 tokens left out, each by name and cause: nothing is lost, and yet it is told."""
    run = RunWriter(tmp_path, rounds=16).write()
    for number in range(1, 17):
        scored = run.ledger.phase("ppo", number, "scored")
        assert scored is not None
        out = []

        def refuse(batch: trainer_pb2.PpoBatch, out: list[list[object]] = out) -> None:
            for index, each in enumerate(batch.rollouts):
                if len(each.response_ids) > 2:
                    each.score.error.reason = "slow"
                if each.score.WhichOneof("outcome") != "value":
                    out.append([index, each.score.error.reason])

        rescored(run, number, refuse)
        reasons = [str(reason) for _, reason in out]
        counts = {reason: reasons.count(reason) for reason in reasons}
        trained(run, number, excluded_rows=out, excluded=counts, metrics={"rollouts": 8.0 - len(out)})
    findings = verify(run.ledger, run.directory).findings
    assert [each.kind for each in findings] == ["length_bias"], findings


def test_an_unknown_run_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "nobody", "--runs", str(tmp_path)]) == 1
    assert "holds no run" in capsys.readouterr().err


def test_findings_are_told_one_a_line_and_by_the_exit_code(
    clean: RunWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    step_skipped(clean)
    checkpoint_gone(clean)
    assert main(["verify", "run", "--runs", str(clean.directory.parent)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "3 findings" and "step_skipped: ppo 3 trained: step 4; expected: step 3" in lines
    assert main(["verify", "run", "--json", "--runs", str(clean.directory.parent)]) == 1
    assert len(json.loads(capsys.readouterr().out)["findings"]) == 3


def test_nothing_is_written(clean: RunWriter) -> None:
    def contents() -> dict[str, bytes]:
        files = (path for path in sorted(clean.directory.rglob("*")) if path.is_file())
        return {str(path): path.read_bytes() for path in files if "ledger.db-" not in path.name}

    before = contents()
    assert verify(clean.ledger, clean.directory).findings == []
    assert contents() == before


def test_files_that_retention_removes_meanwhile_are_no_findings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunWriter(tmp_path, rounds=20)
    run.supervised()
    run.ledger.begin_stage("ppo", "ppo", 2)
    for number in range(1, 8):
        run.round(number)
    all_rows, calls = run.ledger.all_rows, []

    def then_remove() -> dict[str, list[dict[str, object]]]:
        rows = all_rows()
        if not calls:
            retention = Retention(rollouts=1, checkpoints=1, versions=3)
            Retainer(run.ledger, run.directory, retention).apply("ppo")
        calls.append(rows)
        return rows

    monkeypatch.setattr(run.ledger, "all_rows", then_remove)
    assert verify(run.ledger, run.directory).findings == [] and len(calls) > 1
    checkpoint = run.directory / "checkpoints/ppo"
    shutil.rmtree(checkpoint)
    calls.clear()
    assert [each.kind for each in verify(run.ledger, run.directory).findings] == ["checkpoint_missing"]


def test_a_run_in_postgresql_verifies_too(postgresql: Server, tmp_path: Path) -> None:
    run = RunWriter(tmp_path, ledger_url=postgresql.new_database("verified")).write()
    Retainer(run.ledger, run.directory, Retention(rollouts=1, versions=3)).apply("ppo")
    verdict = verify(run.ledger, run.directory)
    assert verdict.findings == [] and verdict.figures["rounds_without_payloads"] == 2
    step_skipped(run)
    assert {each.kind for each in verify(run.ledger, run.directory).findings} == {"step_skipped"}
