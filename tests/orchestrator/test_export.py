"""Export: a plain Hugging Face directory, verified on its way, whole or not at all."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from orchestrator.export import ExportError, export_model, model_card
from services.weights import ModelVersion, publish

CARD: dict[str, Any] = {
    "version": "policy@2",
    "run": "small",
    "seed": 3,
    "recipe_sha256": "ab" * 32,
    "evaluation": {
        "prompts": 512,
        "temperature": 1.0,
        "before": "sft",
        "after": "policy",
        "models": {"policy": {"gold": {"mean": 3.32, "low": 3.3, "high": 3.34, "n": 512}}},
        "win_rate": {"rate": 0.9, "low": 0.871, "high": 0.923},
        "gap_closed": float("nan"),
    },
}


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real published version of a tiny model."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
    )
    model = LlamaForCausalLM(config)
    parent = ModelVersion("policy", 1, "cd" * 32)
    models = tmp_path_factory.mktemp("models")
    return publish(models, "policy", 2, lambda path: model.save_pretrained(path), parent=parent).path


def copied(version: Path, directory: Path) -> Path:
    """A version of one's own to damage."""
    directory.mkdir()
    for path in version.iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    return directory


def test_an_export_is_a_plain_directory_that_transformers_loads(version: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    export_model(version, out, CARD)
    assert not (out / "manifest.json").exists()
    assert {path.name for path in out.iterdir()} == {path.name for path in version.iterdir()} - {
        "manifest.json"
    } | {"README.md"}
    ids = torch.tensor([[1, 2, 3]])
    ours, theirs = (AutoModelForCausalLM.from_pretrained(path)(ids).logits for path in (out, version))
    assert torch.equal(ours, theirs)
    assert [path.name for path in out.parent.iterdir()] == ["out"], "nothing is left beside it"


def test_the_card_says_where_the_model_comes_from_and_how_good_it_is(version: Path, tmp_path: Path) -> None:
    export_model(version, tmp_path / "out", CARD)
    card = (tmp_path / "out" / "README.md").read_text()
    for said in (
        "# policy@2",
        "- Parent: policy@1",
        "- Run: small",
        "- Seed: 3",
        f"- Recipe SHA-256: {'ab' * 32}",
    ):
        assert said in card, said
    assert "| policy | 3.32 [3.30, 3.34] | - | - |" in card and "90.0% [87.1%, 92.3%]" in card
    assert "## Intended use and limits" in card and "nan" not in card.lower().replace("finance", "")


def test_a_model_that_was_not_evaluated_says_so() -> None:
    card = model_card({}, {"model": "sft", "number": 1, "extra": {"normalisation": {"gain": 2.0}}})
    assert "Not evaluated: nothing is known about how good it is." in card
    assert "# sft@1" in card and "- Parent: the run's starting model" in card
    assert '- Normalisation: {"gain": 2.0}' in card


def test_an_empty_destination_is_used_and_any_other_is_refused(version: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    export_model(version, tmp_path / "empty", CARD)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(ExportError, match="full: is not empty; name a new directory"):
        export_model(version, tmp_path / "full", CARD)
    assert (tmp_path / "full" / "thesis.txt").read_text() == "mine"
    with pytest.raises(ExportError, match="thesis.txt: is a file, not a directory"):
        export_model(version, tmp_path / "full" / "thesis.txt", CARD)


def test_the_same_export_again_succeeds_and_a_changed_one_is_refused(version: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_model(version, out, CARD)
    export_model(version, out, CARD)
    with (out / "config.json").open("a") as config:
        config.write(" ")
    with pytest.raises(ExportError, match="is not empty"):
        export_model(version, out, CARD)


def test_what_an_export_that_died_left_is_no_hindrance(version: Path, tmp_path: Path) -> None:
    left = tmp_path / ".out.partial"
    left.mkdir()
    (left / "half").write_text("a half")
    export_model(version, tmp_path / "out", CARD)
    assert not (tmp_path / "out" / "half").exists() and not left.exists()


def test_a_damaged_weight_is_found_and_nothing_is_exported(version: Path, tmp_path: Path) -> None:
    damaged = copied(version, tmp_path / "v")
    content = bytearray((damaged / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (damaged / "model.safetensors").write_bytes(content)
    with pytest.raises(ExportError, match="model.safetensors: differs from its manifest"):
        export_model(damaged, tmp_path / "out", CARD)
    (damaged / "model.safetensors").unlink()
    with pytest.raises(ExportError, match="model.safetensors: is in the manifest but cannot be read"):
        export_model(damaged, tmp_path / "out", CARD)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v"]


def test_a_directory_without_a_good_manifest_is_refused(version: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="manifest.json: cannot be read .*is this a published version"):
        export_model(tmp_path, tmp_path / "out", CARD)
    damaged = copied(version, tmp_path / "v")
    (damaged / "manifest.json").write_text("{}")
    with pytest.raises(ExportError, match="is not a manifest"):
        export_model(damaged, tmp_path / "out", CARD)


def test_a_manifest_that_points_outside_its_directory_is_refused(version: Path, tmp_path: Path) -> None:
    damaged = copied(version, tmp_path / "v")
    manifest = json.loads((damaged / "manifest.json").read_text())
    manifest["files"]["../../secret"] = {"sha256": "0", "bytes": 1}
    (damaged / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ExportError, match=r"names a file outside its directory: '../../secret'"):
        export_model(damaged, tmp_path / "out", CARD)
