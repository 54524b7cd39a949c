"""Retention removes what no row needs, rows first; what is left still verifies and can still be resumed."""

import json
import os
import time
from pathlib import Path

import pytest

from orchestrator.ledger import Ledger, open_engine, sqlite_url
from orchestrator.payloads import Payload
from orchestrator.recipe import load_recipe
from orchestrator.recipe_retention import Retention
from orchestrator.retention import Retainer, remove
from orchestrator.verify import verify
from tests.orchestrator.planted import change, phase
from tests.orchestrator.written_run import RunWriter


def begun(directory: Path) -> RunWriter:
    run = RunWriter(directory, rounds=20)
    run.supervised()
    run.ledger.begin_stage("ppo", "ppo", 2)
    return run


def retainer(run: RunWriter, rollouts: int = 2, checkpoints: int = 2, versions: int = 4) -> Retainer:
    retention = Retention(rollouts=rollouts, checkpoints=checkpoints, versions=versions)
    return Retainer(run.ledger, run.directory, retention)


def names(run: RunWriter, pattern: str) -> list[str]:
    return sorted(path.name.partition("-0000000")[0] for path in run.directory.glob(pattern))


def test_only_what_no_row_needs_goes_round_by_round(tmp_path: Path) -> None:
    run = begun(tmp_path)
    for number in range(1, 10):
        run.round(number)
        retainer(run).apply("ppo")
        assert verify(run.ledger, run.directory).findings == []
    assert names(run, "models/policy/v*") == ["v000006", "v000007", "v000008", "v000009"]
    assert names(run, "models/sft/v*") == ["v000002"], "other models keep their newest"
    assert names(run, "checkpoints/ppo/*") == ["step-000006", "step-000008"]
    # Checkpoint 6 covers rounds up to 6; those behind it may be replayed.
    assert names(run, "rollouts/ppo/*") == ["000007", "000008", "000009"]
    figures = verify(run.ledger, run.directory).figures
    assert figures["rounds_without_payloads"] == 6
    assert figures["lengths"]["ppo"]["sampled"]["rollouts"] == 72, "lengths are counted without payloads"
    assert figures["lengths"]["ppo"]["trained"]["rollouts"] == 71
    newest, checkpoint = run.ledger.latest_version("policy"), run.ledger.kept_checkpoints("ppo")[-1]
    assert newest is not None and newest["number"] == 9
    assert checkpoint["step"] == 8
    for number in range(checkpoint["step"] + 1, 10):
        assert Path(Payload(**(run.ledger.phase("ppo", number, "scored") or {})).path).exists()


def test_nothing_goes_before_a_checkpoint_covers_it(tmp_path: Path) -> None:
    run = begun(tmp_path)
    run.round(1)
    retainer(run, rollouts=1, checkpoints=1).apply("ppo")
    assert names(run, "rollouts/ppo/*") == ["000001"]
    run.round(2)  # with the first checkpoint
    run.sampled(3)
    retainer(run, rollouts=1, checkpoints=1).apply("ppo")
    assert names(run, "rollouts/ppo/*") == ["000003"], "the open round counts as the newest"


def test_zero_and_null_keep_all(tmp_path: Path) -> None:
    run = begun(tmp_path)
    for number in range(1, 6):
        run.round(number)
    for retention in (
        Retention(rollouts=0, checkpoints=0, versions=0),
        Retention(rollouts=None, versions=None),
    ):
        Retainer(run.ledger, run.directory, retention).apply("ppo")
    assert len(names(run, "rollouts/ppo/*")) == 5 and len(names(run, "models/policy/v*")) == 5
    assert len(names(run, "checkpoints/ppo/*")) == 2


def test_the_versions_that_a_rollback_may_need_stay(tmp_path: Path) -> None:
    run = begun(tmp_path)
    for number in range(1, 6):
        run.round(number)
        retainer(run, versions=1).apply("ppo")
    assert names(run, "models/policy/v*") == ["v000003", "v000004", "v000005"]
    pointer = json.loads((run.directory / "models/policy/COMMITTED").read_text())
    assert pointer["number"] == 5


@pytest.mark.parametrize("died_after", ["rows", "one file"])
def test_a_crash_in_between_is_made_good_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, died_after: str
) -> None:
    run = begun(tmp_path)
    for number in range(1, 8):
        run.round(number)
    removed: list[Path] = []

    def die(path: Path) -> None:
        if died_after == "one file" and not removed:
            removed.append(path)
            return remove(path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.retention.remove", die)
        with pytest.raises(KeyboardInterrupt):
            retainer(run).apply("ppo")
    assert verify(run.ledger, run.directory).findings == []
    resumed = Ledger(open_engine(sqlite_url(run.directory)), "run")
    resumed.take_lease()
    again = Retainer(resumed, run.directory, Retention(rollouts=2, checkpoints=2, versions=4))
    again.sweep(local_writers=True)
    again.apply("ppo")
    assert verify(resumed, run.directory).findings == []
    assert names(run, "checkpoints/ppo/*") == ["step-000004", "step-000006"]
    assert names(run, "rollouts/ppo/*") == ["000005", "000006", "000007"]
    assert names(run, "models/policy/v*") == ["v000004", "v000005", "v000006", "v000007"]


def test_leftovers_of_dead_writers_are_swept_and_those_of_living_ones_left(tmp_path: Path) -> None:
    run = begun(tmp_path)
    run.round(1)
    version = run.directory / "models/policy/v000002.tmp-0a1b2c3d"
    old = run.directory / "models/policy/v000002.tmp-00000000"
    payload = run.directory / "rollouts/ppo/000001/chunk-0.pb.tmp-123"
    for path in (version / "model.safetensors", old / "model.safetensors", payload):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    hours_ago = time.time() - 7200
    for path in (old / "model.safetensors", old):
        os.utime(path, (hours_ago, hours_ago))
    retainer(run).sweep(local_writers=False)
    assert version.exists() and not old.exists(), "a service elsewhere may be writing the young one"
    assert not payload.exists(), "payloads are written under the lease, which is ours"
    retainer(run).sweep(local_writers=True)
    assert not version.exists()
    assert verify(run.ledger, run.directory).findings == []


@pytest.mark.parametrize("when", ["at the next start", "behind the next round"])
def test_a_version_that_came_back_by_a_replay_goes_again(tmp_path: Path, when: str) -> None:
    run = begun(tmp_path)
    for number in range(1, 6):
        run.round(number)
    retainer(run).apply("ppo")
    assert names(run, "models/policy/v*")[0] == "v000002"
    (run.directory / "models/policy/v000001").mkdir()
    if when == "at the next start":
        retainer(run).sweep(local_writers=True)
    else:
        retainer(run).apply("ppo")
    assert names(run, "models/policy/v*")[0] == "v000002"


def test_a_version_that_a_stage_still_begins_from_stays_however_old(tmp_path: Path) -> None:
    run = begun(tmp_path)
    kept = Retainer(run.ledger, run.directory, Retention(versions=3), lambda: {("policy", 2)})
    for number in range(1, 8):
        run.round(number)
        kept.apply("ppo")
    assert names(run, "models/policy/v*") == ["v000002", "v000005", "v000006", "v000007"]
    assert verify(run.ledger, run.directory).findings == []
    retainer(run, versions=3).apply("ppo")
    assert names(run, "models/policy/v*") == ["v000005", "v000006", "v000007"]


def test_a_stage_that_is_over_leaves_no_checkpoint(tmp_path: Path) -> None:
    run = begun(tmp_path)
    for number in range(1, 6):
        run.round(number)
    Retainer(run.ledger, run.directory, Retention(checkpoints=0)).finish("ppo")
    assert len(names(run, "checkpoints/ppo/*")) == 2, "all are kept where the recipe says so"
    retainer(run).finish("ppo")
    assert names(run, "checkpoints/ppo/*") == [] and run.ledger.kept_checkpoints("ppo") == []
    assert verify(run.ledger, run.directory).findings == []


def test_a_round_without_an_account_stays(tmp_path: Path) -> None:
    """As an earlier program wrote it: without its payloads nobody could recount it."""
    run = begun(tmp_path)
    for number in range(1, 4):
        run.ledger.begin_round("ppo", number, 4)
        run.ledger.finish_phase("ppo", number, "sampled", {"chunks": 2})
        run.ledger.commit_round("ppo", number, {}, 1.0)
    run.checkpoint(2)
    retainer(run, rollouts=1).apply("ppo")
    assert not any(row.payloads_removed for row in run.ledger.all_rounds("ppo"))


def test_a_removed_round_that_was_not_what_the_cursor_asked_for_is_found(tmp_path: Path) -> None:
    run = begun(tmp_path)
    for number in range(1, 6):
        run.round(number)
    account = dict(run.ledger.phase("ppo", 1, "sampled") or {})
    retainer(run).apply("ppo")
    change(run, "phases", phase(1, "sampled"), output={**account, "names_sha256": "f" * 64})
    (finding,) = verify(run.ledger, run.directory).findings
    assert (finding.kind, finding.where) == ("prompt_missing", "ppo 1 sampled")


def test_retention_changes_no_recipe_digest(tmp_path: Path) -> None:
    run = RunWriter(tmp_path)
    path = tmp_path / "recipe.yaml"
    other = load_recipe(path, ["retention.rollouts=7", "retention.versions=null"], run_dir=run.directory)
    assert other.retention.rollouts == 7 and other.retention.versions is None
    assert run.recipe.retention.rollouts == 100 and other.sha256 == run.recipe.sha256
