"""Checkpoints: a stage's whole state as safetensors and JSON, with a SHA-256 per file. Never pickle.

    <checkpoints>/step-000012-9f86d081/manifest.json       {"files": {"state.json": {"sha256", "bytes"}, ...}}
                                       state.json          step, stage, KL controller, latch, counts, versions
                                       tensors.safetensors weights and moments of every model in training

Several ranks write tensors-00001-of-00002.safetensors and so on, each a share of the tensors, whole; any
number of ranks reads either. Torch's own distributed checkpoints would do for that, but for their pickle.

Written beside its place, fsynced, renamed. The directory carries its manifest's digest, so that another
state at the same step is another directory, and an equal one the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from services.durable_files import digest_of, fsync
from services.errors import FieldError, PreconditionError
from services.trainer.ranks import Ranks
from services.trainer.records import CheckpointPlace, StagePlan
from services.trainer.stage import StageState
from services.trainer.tensor_files import write_whole

MANIFEST = "manifest.json"
STATE = "state.json"
TENSORS = "tensors"
SUFFIX = ".safetensors"
FIELD = "checkpoint"
DAMAGED = "checkpoint_damaged"  # what a caller is told as the reason: an older checkpoint may serve


def write_checkpoint(
    directory: Path, plan: StagePlan, step: int, state: StageState, ranks: Ranks
) -> CheckpointPlace:
    """Writes a checkpoint that is whole or not there; every rank writes a share."""
    staging = ranks.led(lambda: _new_staging(directory, step))
    try:
        files = ranks.merged(dict([_write_share(staging, state, ranks)]))
        content = {"step": step, "begun": begun_with(plan), "scalars": state.scalars}
        return ranks.led(lambda: _finish(staging, content, step, {k: v for k, v in files.values() if v}))
    finally:
        if ranks.leads:
            shutil.rmtree(staging, ignore_errors=True)


def _new_staging(directory: Path, step: int) -> Path:
    staging = directory / f"step-{step:06d}.tmp-{secrets.token_hex(4)}"
    staging.mkdir(parents=True)
    return staging


def _write_share(staging: Path, state: StageState, ranks: Ranks) -> tuple[int, tuple[str, Any]]:
    """Writes this rank's file: (rank, (name, digest)); no digest where it had nothing to write."""
    by_size = sorted(state.tensors, key=lambda name: (-state.tensors[name].numel(), name))
    numbered = f"-{ranks.rank + 1:05d}-of-{ranks.size:05d}" if ranks.size > 1 else ""
    file = staging / f"{TENSORS}{numbered}{SUFFIX}"
    write_whole(file, state.tensors, frozenset(by_size[ranks.rank :: ranks.size]), ranks)
    return ranks.rank, (file.name, ranks.agreed(lambda: _flushed(file) if file.exists() else None))


def _finish(staging: Path, content: dict[str, Any], step: int, files: dict[str, Any]) -> CheckpointPlace:
    """Writes state and manifest and renames the directory into its place."""
    (staging / STATE).write_bytes(_canonical(content))
    manifest = _canonical({"files": {**files, STATE: _flushed(staging / STATE)}})
    (staging / MANIFEST).write_bytes(manifest)
    for path in (staging / MANIFEST, staging):
        fsync(path)
    sha256 = hashlib.sha256(manifest).hexdigest()
    final = staging.parent / f"step-{step:06d}-{sha256[:8]}"
    if not final.exists():
        os.rename(staging, final)
        fsync(staging.parent)
    return CheckpointPlace(final.resolve(), sha256, step)


def _flushed(file: Path) -> dict[str, Any]:
    fsync(file)
    return vars(digest_of(file))


def read_checkpoint(place: CheckpointPlace, plan: StagePlan, ranks: Ranks) -> StageState:
    """The state in a checkpoint, every byte of it verified; its tensors are whole on every rank.

    Raises FieldError for a checkpoint that is missing, damaged (its reason) or of another step than said, and
    PreconditionError("other_stage") for one of another stage.
    """
    files = ranks.agreed(lambda: _verified(place, ranks))
    return ranks.agreed(lambda: _read_whole(place, plan, files))


def _verified(place: CheckpointPlace, ranks: Ranks) -> list[str]:
    """The names of a checkpoint's files; each rank reads a share of them for all."""
    sha256 = hashlib.sha256(_read(place.path / MANIFEST)).hexdigest()
    if sha256 != place.sha256:
        raise FieldError(f"{FIELD}.sha256", place.sha256, f"the manifest's SHA-256 is {sha256}", DAMAGED)
    files = json.loads(_read(place.path / MANIFEST))["files"]
    for number, (name, stated) in enumerate(sorted(files.items())):
        _check_there(place.path / name)
        if number % ranks.size == ranks.rank and vars(digest_of(place.path / name)) != stated:
            file = str(place.path / name)
            raise FieldError(f"{FIELD}.uri", file, "is damaged: its digest is another", DAMAGED)
    return sorted(files)


def _read_whole(place: CheckpointPlace, plan: StagePlan, files: list[str]) -> StageState:
    content = json.loads(_read(place.path / STATE))
    if content["step"] != place.step:
        raise FieldError(f"{FIELD}.step", place.step, f"the checkpoint is of step {content['step']}")
    if content["begun"] != begun_with(plan):
        theirs = f"{content['begun']['stage']!r} ({content['begun']['kind']})"
        message = f"the checkpoint is of stage {theirs}, which began with another run, seed or settings"
        raise PreconditionError("other_stage", message)
    tensors = {}
    for name in files:
        if name.endswith(SUFFIX):
            tensors.update(load_file(place.path / name))  # mapped, not read
    return StageState(tensors, content["scalars"])


def begun_with(plan: StagePlan) -> dict[str, Any]:
    """What a stage has to have begun with to go on from a checkpoint of it, as JSON."""
    return {
        "stage": plan.stage,
        "kind": type(plan.settings).__name__,
        "run": plan.run_id,
        "seed": plan.seed,
        "output_model": plan.output_model,
        "settings": dataclasses.asdict(plan.settings),
    }


def _canonical(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, sort_keys=True, indent=1, allow_nan=False) + "\n").encode()


def _check_there(file: Path) -> None:
    if not file.is_file():
        raise FieldError(f"{FIELD}.uri", str(file), "there is no such file", DAMAGED)


def _read(file: Path) -> bytes:
    _check_there(file)
    return file.read_bytes()
