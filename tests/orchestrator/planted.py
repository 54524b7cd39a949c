"""Inconsistencies to plant into a clean run: what is changed, the finding it must give, and where."""

import shutil
from collections.abc import Callable
from pathlib import Path

from orchestrator.payloads import Payload, read_payload, write_payload
from orchestrator.schema import metadata
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
