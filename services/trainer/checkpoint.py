"""Checkpoints: a stage's whole state as safetensors and JSON, with a SHA-256 per file. Never pickle.

    <checkpoints>/step-000012-9f86d081/manifest.json       {"files": {"state.json": {"sha256", "bytes"}, ...}}
                                       state.json          step, stage, KL controller, latch, counts, versions
                                       tensors.safetensors weights and moments of every model in training

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

from safetensors.torch import load_file, save_file

from services.errors import FieldError, PreconditionError
from services.trainer.records import CheckpointPlace, StagePlan
from services.trainer.stage import StageState

MANIFEST = "manifest.json"
STATE = "state.json"
TENSORS = "tensors.safetensors"
FIELD = "checkpoint"


def write_checkpoint(directory: Path, plan: StagePlan, step: int, state: StageState) -> CheckpointPlace:
    """Writes a checkpoint that is whole or not there."""
    directory.mkdir(parents=True, exist_ok=True)
    staging = directory / f"step-{step:06d}.tmp-{secrets.token_hex(4)}"
    staging.mkdir()
    try:
        tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in state.tensors.items()}
        save_file(tensors, staging / TENSORS)
        content = {"step": step, "begun": begun_with(plan), "scalars": state.scalars}
        (staging / STATE).write_bytes(_canonical(content))
        manifest = _canonical({"files": {name: _digest(staging / name) for name in (STATE, TENSORS)}})
        (staging / MANIFEST).write_bytes(manifest)
        for path in (staging / TENSORS, staging / STATE, staging / MANIFEST, staging):
            _fsync(path)
        sha256 = hashlib.sha256(manifest).hexdigest()
        final = directory / f"step-{step:06d}-{sha256[:8]}"
        if not final.exists():
            os.rename(staging, final)
            _fsync(directory)
        return CheckpointPlace(final.resolve(), sha256, step)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def read_checkpoint(place: CheckpointPlace, plan: StagePlan) -> StageState:
    """The state in a checkpoint, every byte of it verified.

    Raises FieldError for a checkpoint that is missing, damaged or of another step than said, and
    PreconditionError("other_stage") for one of another stage.
    """
    sha256 = hashlib.sha256(_read(place.path / MANIFEST)).hexdigest()
    if sha256 != place.sha256:
        raise FieldError(f"{FIELD}.sha256", place.sha256, f"the manifest's SHA-256 is {sha256}")
    for name, stated in json.loads(_read(place.path / MANIFEST))["files"].items():
        _read(place.path / name)
        if _digest(place.path / name) != stated:
            raise FieldError(f"{FIELD}.uri", str(place.path / name), "is damaged: its digest is another")
    content = json.loads(_read(place.path / STATE))
    if content["step"] != place.step:
        raise FieldError(f"{FIELD}.step", place.step, f"the checkpoint is of step {content['step']}")
    if content["begun"] != begun_with(plan):
        theirs = f"{content['begun']['stage']!r} ({content['begun']['kind']})"
        message = f"the checkpoint is of stage {theirs}, which began with another run, seed or settings"
        raise PreconditionError("other_stage", message)
    return StageState(load_file(place.path / TENSORS), content["scalars"])


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


def _read(file: Path) -> bytes:
    if not file.is_file():
        raise FieldError(f"{FIELD}.uri", str(file), "there is no such file")
    return file.read_bytes()


def _digest(file: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
        return {"sha256": digest.hexdigest(), "bytes": stream.tell()}


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
