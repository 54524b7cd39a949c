"""The models that a run begins from stay what they were: in a directory by digest, on the hub by commit."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.drive import check_digests, drive, model_digests, new_run, open_run
from orchestrator.export import ExportError
from orchestrator.ledger import Ledger
from orchestrator.progress import PlainProgress
from orchestrator.run import RunError
from orchestrator.verify import verify
from tests.orchestrator.test_import import begun, written
from tests.tiny_models import write_tiny_model
from trueline.v1 import types_pb2

COMMITS = ["0123456789abcdef0123456789abcdef01234567", "f" * 40]


def changed(file: Path) -> bytes:
    """Changes one bit in a file, as no size shows; what it held before."""
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return content


def begin(tmp_path: Path) -> tuple[Path, Path, Ledger]:
    """(model, run, ledger) of a run that copies a model out, for which it needs no service."""
    model, directory = write_tiny_model(tmp_path / "base"), tmp_path / "copies"
    stage = {"kind": "export", "model": "start", "directory": "{run}/export"}
    recipe = {"name": "copies", "models": {"start": str(model)}, "stages": {"export": stage}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    return model, directory, new_run(tmp_path / "recipe.yaml", directory, [], None)


async def test_a_weight_that_changed_between_stop_and_resume_refuses_the_resume(tmp_path: Path) -> None:
    model, directory, ledger = begin(tmp_path)
    progress = PlainProgress(io.StringIO())
    with pytest.raises(ExportError):
        await drive(directory, ledger, progress)
    with pytest.raises(ExportError):  # unchanged, it goes on to where it was
        await drive(directory, open_run(directory), progress)
    before = changed(model / "model.safetensors")
    with pytest.raises(RunError, match=rf"models changed since the run began: {model}; put back"):
        await drive(directory, open_run(directory), progress)
    (finding,) = verify(open_run(directory), directory).findings
    assert (finding.kind, finding.where) == ("data_changed", str(model))
    (model / "model.safetensors").write_bytes(before)
    with pytest.raises(ExportError):
        await drive(directory, open_run(directory), progress)
    assert not verify(open_run(directory), directory).findings


def test_files_count_that_come_or_go_and_a_run_from_before_goes_on(tmp_path: Path) -> None:
    model, _, ledger = begin(tmp_path)
    ledger.take_lease()
    recipe: Any = type("Recipe", (), {"models": {"start": str(model), "hub": "hf://tiny/llama"}})
    check_digests(ledger, {"prompts": "1"}, model_digests(recipe))
    (model / ".gitattributes").touch()
    check_digests(ledger, {"prompts": "1"}, model_digests(recipe))
    (model / "adapter.safetensors").touch()
    with pytest.raises(RunError, match=f"changed since the run began: {model}"):
        check_digests(ledger, {"prompts": "1"}, model_digests(recipe))
    ledger.set_run(data_sha256={"prompts": "1"})  # as a run began before models had digests
    check_digests(ledger, {"prompts": "1"}, model_digests(recipe))
    with pytest.raises(RunError, match="changed since the run began: prompts"):
        check_digests(ledger, {"prompts": "2"}, model_digests(recipe))


async def test_a_hub_name_stands_for_the_commit_that_was_served_first(tmp_path: Path) -> None:
    run = begun(tmp_path, written(tmp_path, [{"text": "a", "chosen": "b", "rejected": "c"}]))
    object.__setattr__(run.recipe, "models", {"base": "hf://tiny/llama@main"})
    asked: list[str] = []

    async def serve(where: types_pb2.ModelLocation, _: Any) -> types_pb2.ModelVersion:
        asked.append(where.uri)
        return types_pb2.ModelVersion(model=COMMITS[len(asked) - 1], sha256="1" * 64)

    run.peers.serve_policy = run.peers.serve_reference = serve  # type: ignore[method-assign]
    await run.serve_policy("base")
    await run.serve_reference("base")
    pinned = f"hf://tiny/llama@{COMMITS[0]}"
    assert asked == ["hf://tiny/llama@main", pinned] and run.locate("base").uri == pinned
