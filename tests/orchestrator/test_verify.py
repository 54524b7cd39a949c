"""`verify` finds nothing in a clean run, and each planted inconsistency under its name and place."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.__main__ import main
from orchestrator.payloads import Payload, read_payload, write_payload
from orchestrator.schema import metadata
from orchestrator.verify import verify
from services.weights import ModelVersion
from tests.orchestrator.written_run import RunWriter
from trueline.v1 import trainer_pb2

TABLES = metadata.tables


def change(run: RunWriter, table: str, where: dict[str, object], **values: object) -> None:
    """Changes a row behind the ledger's back."""
    with run.ledger.database.engine.begin() as connection:
        of_row = [TABLES[table].c[name] == value for name, value in where.items()]
        assert connection.execute(TABLES[table].update().where(*of_row).values(**values)).rowcount == 1


def delete(run: RunWriter, table: str, **where: object) -> None:
    with run.ledger.database.engine.begin() as connection:
        of_row = [TABLES[table].c[name] == value for name, value in where.items()]
        assert connection.execute(TABLES[table].delete().where(*of_row)).rowcount == 1


def phase(number: int, name: str, stage: str = "ppo") -> dict[str, object]:
    return {"stage": stage, "round": number, "phase": name}


def rewrite(run: RunWriter, number: int, name: str, edit: Callable[[trainer_pb2.PpoBatch], None]) -> str:
    """Another payload in a phase's place, its digest and that of a step on it right; returns the digest."""
    row = run.ledger.phase("ppo", number, name)
    assert row is not None
    batch = read_payload(Payload(**row), trainer_pb2.PpoBatch)
    edit(batch)
    made = write_payload(Path(row["path"]), batch)
    change(run, "phases", phase(number, name), output=made.as_row())
    return made.sha256


def rescored(run: RunWriter, number: int, edit: Callable[[trainer_pb2.PpoBatch], None]) -> None:
    sha256 = rewrite(run, number, "scored", edit)
    trained(run, number, batch_sha256=sha256)


def trained(run: RunWriter, number: int, **values: object) -> None:
    row = run.ledger.phase("ppo", number, "trained")
    change(run, "phases", phase(number, "trained"), output={**(row or {}), **values})


# Each plants one inconsistency.


def prompt_not_sampled(run: RunWriter) -> None:
    rewrite(run, 2, "chunk-0", lambda batch: batch.rollouts.pop(0) and None)


def prompt_sampled_twice(run: RunWriter) -> None:
    rewrite(run, 2, "chunk-1", lambda batch: batch.rollouts.append(batch.rollouts[0]))


def cursor_skips(run: RunWriter) -> None:
    change(run, "rounds", {"stage": "ppo", "round": 3}, cursor_start=9, cursor_end=13)


def cursor_goes_back(run: RunWriter) -> None:
    change(run, "rounds", {"stage": "ppo", "round": 3}, cursor_start=4, cursor_end=8)


def rollout_lost(run: RunWriter) -> None:
    rescored(run, 3, lambda batch: batch.rollouts.pop() and None)


def rollout_twice_in_a_batch(run: RunWriter) -> None:
    rescored(run, 3, lambda batch: batch.rollouts.append(batch.rollouts[0]))


def rollout_trained_in_two_steps(run: RunWriter) -> None:
    first = run.ledger.phase("ppo", 1, "scored")
    change(run, "phases", phase(4, "scored"), output=first)
    trained(run, 4, batch_sha256=(first or {})["sha256"])


def rollout_with_other_tokens(run: RunWriter) -> None:
    rescored(run, 1, lambda batch: batch.rollouts[0].response_ids.append(9))


def left_out_without_cause(run: RunWriter) -> None:
    trained(run, 4, excluded_rows=[[0, "too_long"]], excluded={"too_long": 1}, metrics={"rollouts": 7.0})


def trained_without_score(run: RunWriter) -> None:
    rescored(run, 4, lambda batch: batch.rollouts[1].score.Clear())


def another_batch(run: RunWriter) -> None:
    trained(run, 2, batch_sha256="f" * 64)


def another_supervised_batch(run: RunWriter) -> None:
    row = run.ledger.phase("sft", 2, "trained") or {}
    change(run, "phases", phase(2, "trained", "sft"), output={**row, "batch_sha256": "f" * 64})


def payload_damaged(run: RunWriter) -> None:
    path = Path((run.ledger.phase("ppo", 2, "chunk-1") or {})["path"])
    path.write_bytes(path.read_bytes() + b"\x00")


def payload_gone(run: RunWriter) -> None:
    Path((run.ledger.phase("ppo", 2, "scored") or {})["path"]).unlink()


def version_damaged(run: RunWriter) -> None:
    (run.directory / "models/policy/v000002/model.safetensors").write_bytes(b"policy 9")


def version_manifest_changed(run: RunWriter) -> None:
    (run.directory / "models/policy/v000002/manifest.json").write_text("{}")


def version_gone(run: RunWriter) -> None:
    shutil.rmtree(run.directory / "models/policy/v000002")


def version_file_added(run: RunWriter) -> None:
    (run.directory / "models/sft/v000002/extra.bin").write_bytes(b"")


def version_without_row(run: RunWriter) -> None:
    delete(run, "versions", model="policy", number=2)


def version_of_another_digest(run: RunWriter) -> None:
    row = run.ledger.phase("ppo", 3, "published") or {}
    change(run, "phases", phase(3, "published"), output={**row, "sha256": "f" * 64})


def pointer_back(run: RunWriter) -> None:
    (run.directory / "models/policy/COMMITTED").write_text('{"number": 1, "sha256": "f"}')


def checkpoint_damaged(run: RunWriter) -> None:
    (state,) = run.directory.glob("checkpoints/ppo/step-000002-*/state.json")
    state.write_bytes(b"state 3")


def checkpoint_gone(run: RunWriter) -> None:
    shutil.rmtree(run.directory / "checkpoints")


def step_skipped(run: RunWriter) -> None:
    trained(run, 3, step=4)


def phases_out_of_order(run: RunWriter) -> None:
    change(run, "phases", phase(3, "trained"), sequence=1)


def epoch_back(run: RunWriter) -> None:
    change(run, "runs", {"run": "run"}, epoch=2)
    change(run, "phases", phase(1, "scored"), epoch=2)


def epoch_ahead(run: RunWriter) -> None:
    change(run, "phases", phase(4, "published"), epoch=7)


def phase_gone(run: RunWriter) -> None:
    delete(run, "phases", stage="ppo", round=2, phase="trained")


def round_gone(run: RunWriter) -> None:
    delete(run, "rounds", stage="ppo", round=2)


def round_left_open(run: RunWriter) -> None:
    change(run, "rounds", {"stage": "ppo", "round": 2}, status="open")


def rolled_back_for_nothing(run: RunWriter) -> None:
    change(run, "rounds", {"stage": "ppo", "round": 4}, status="rolled_back")


def recipe_edited(run: RunWriter) -> None:
    path = run.directory / "recipe.yaml"
    path.write_text(path.read_text().replace('"seed": 5', '"seed": 6'))


def data_edited(run: RunWriter) -> None:
    (run.directory.parent / "texts.jsonl").write_text('{"text": "another"}\n')


PLANTED = [
    (prompt_not_sampled, "prompt_missing", "ppo 2"),
    (prompt_sampled_twice, "prompt_repeated", "ppo 2"),
    (cursor_skips, "prompt_missing", "ppo 3"),
    (cursor_goes_back, "prompt_repeated", "ppo 3"),
    (rollout_lost, "rollout_lost", "ppo 3 scored"),
    (rollout_twice_in_a_batch, "rollout_repeated", "ppo 3 scored"),
    (rollout_trained_in_two_steps, "trained_twice", "ppo 4 trained"),
    (rollout_with_other_tokens, "rollout_changed", "ppo 1 scored"),
    (left_out_without_cause, "rollout_left_out", "ppo 4 trained"),
    (trained_without_score, "rollout_unscored", "ppo 4 trained"),
    (another_batch, "batch_changed", "ppo 2 trained"),
    (another_supervised_batch, "batch_changed", "sft 2 trained"),
    (payload_damaged, "payload_digest", "ppo 2 chunk-1"),
    (payload_gone, "payload_missing", "ppo 2 scored"),
    (version_damaged, "version_digest", "policy@2"),
    (version_manifest_changed, "version_digest", "policy@2"),
    (version_gone, "version_missing", "policy@2"),
    (version_file_added, "version_file", "sft@2"),
    (version_without_row, "version_missing", "ppo 2 published"),
    (version_of_another_digest, "version_digest", "ppo 3 published"),
    (pointer_back, "pointer", "policy"),
    (checkpoint_damaged, "checkpoint_digest", "ppo step 2"),
    (checkpoint_gone, "checkpoint_missing", "ppo step 2"),
    (step_skipped, "step_skipped", "ppo 3 trained"),
    (phases_out_of_order, "phase_order", "ppo 3 trained"),
    (epoch_back, "epoch_backwards", "ppo 1 trained"),
    (epoch_ahead, "epoch_unknown", "ppo 4 published"),
    (phase_gone, "phase_missing", "ppo 2 trained"),
    (round_gone, "round_missing", "ppo 2"),
    (round_left_open, "round_open", "ppo 2"),
    (rolled_back_for_nothing, "rollback_unexplained", "ppo 4"),
    (recipe_edited, "recipe_changed", "recipe.yaml"),
    (data_edited, "data_changed", "texts.jsonl"),
]


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


def test_a_parent_that_is_not_the_version_before_is_found(tmp_path: Path) -> None:
    run = RunWriter(tmp_path)
    run.supervised()
    run.ledger.begin_stage("ppo", "ppo", 2)
    run.round(1)
    run.sampled(2)
    run.scored(2)
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
