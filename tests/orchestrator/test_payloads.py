"""Payloads and the ledger's address on disk: whole or not there, and never another writer's."""

import errno
import os
from pathlib import Path

import pytest

from orchestrator.ledger_place import holds_run, keep_ledger_url, kept_ledger_url
from orchestrator.payloads import PayloadError, read_payload, write_payload
from trueline.v1 import trainer_pb2, types_pb2

PLACE = "postgresql://trueline@db:5432/ledger"


def batch(text: str) -> trainer_pb2.PpoBatch:
    return trainer_pb2.PpoBatch(rollouts=[types_pb2.Rollout(response_text=text)])


def test_a_leader_that_was_replaced_leaves_the_new_ones_payload_alone(tmp_path: Path) -> None:
    new = write_payload(tmp_path / "chunk-0.pb", batch("the new leader's"))
    old = write_payload(tmp_path / "chunk-0.pb", batch("of one that was asleep"))
    assert read_payload(new, trainer_pb2.PpoBatch) == batch("the new leader's")
    assert old.path != new.path and Path(new.path).name.startswith("chunk-0-")
    again = write_payload(tmp_path / "chunk-0.pb", batch("the new leader's"))
    assert again == new and len(list(tmp_path.iterdir())) == 2


def test_a_payload_that_is_not_what_the_ledger_says_is_named(tmp_path: Path) -> None:
    kept = write_payload(tmp_path / "chunk-0.pb", batch("a"))
    Path(kept.path).write_bytes(batch("b").SerializeToString())
    with pytest.raises(PayloadError, match="chunk-0-.*: SHA-256 is .*, the ledger says"):
        read_payload(kept, trainer_pb2.PpoBatch)


def test_a_disk_that_is_full_at_a_runs_beginning_leaves_no_half_of_an_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            keep_ledger_url(tmp_path, PLACE)
    assert not holds_run(tmp_path) and list(tmp_path.iterdir()) == []
    keep_ledger_url(tmp_path, PLACE)
    assert holds_run(tmp_path) and "trueline@db:5432/ledger" in kept_ledger_url(tmp_path, None)
