"""Copies a published version out as a plain Hugging Face directory with a model card.

    out/config.json  out/model.safetensors  out/tokenizer.json ...  out/README.md

Every byte is compared with the version's manifest on its way; the copy appears whole or not at all.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from jinja2 import Environment, FileSystemLoader

from orchestrator.data import file_sha256
from orchestrator.report_text import UNKNOWN, amount, in_order, plain, share, with_interval, without_nan

MANIFEST = "manifest.json"
CARD = "README.md"
BLOCK = 1 << 20
TEMPLATES = Path(__file__).parent / "templates"


class ExportError(ValueError):
    """A model cannot be exported; the message names the place and what is wrong with it."""


def export_model(version_dir: Path, destination: Path, card: Mapping[str, Any]) -> None:
    """Copies the version's files and writes the card.

    `card` may hold version, run, seed, recipe_sha256 and evaluation (as in the report). A destination that
    already holds this very export is left as it is, so that a repeat after a crash succeeds; any other that
    is not empty is refused. Raises ExportError.
    """
    manifest = _read_manifest(version_dir)
    text = model_card(card, manifest)
    if destination.exists() and not destination.is_dir():
        raise ExportError(f"{destination}: is a file, not a directory")
    if destination.is_dir() and any(destination.iterdir()):
        if _holds(destination, manifest, text):
            return
        raise ExportError(f"{destination}: is not empty; name a new directory")
    beside = destination.absolute().with_name(f".{destination.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)  # of an export that died
    try:
        for name, stated in manifest["files"].items():
            _copy_verified(version_dir / name, beside / name, stated)
        _write_synced(beside / CARD, text.encode())
        os.rename(beside, destination.absolute())  # onto nothing, or onto an empty directory
    except OSError as error:
        raise ExportError(f"{destination}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _read_manifest(version_dir: Path) -> dict[str, Any]:
    """The manifest of a published version, with file names that stay inside it."""
    path = version_dir / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        files = {
            str(name): (str(stated["sha256"]), int(stated["bytes"]))
            for name, stated in manifest["files"].items()
        }
    except OSError as error:
        raise ExportError(
            f"{path}: cannot be read ({error.strerror}); is this a published version?"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"{path}: is not a manifest ({error!r})") from None
    for name in files:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts:
            raise ExportError(f"{path}: names a file outside its directory: {name!r}")
    if not any(name.endswith(".safetensors") for name in files):
        raise ExportError(f"{path}: lists no safetensors file")
    return {**manifest, "files": files}


def _copy_verified(source: Path, target: Path, stated: tuple[str, int]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    try:
        reading = source.open("rb")
    except OSError as error:
        raise ExportError(f"{source}: is in the manifest but cannot be read ({error.strerror})") from None
    with reading, target.open("wb") as writing:
        while block := reading.read(BLOCK):
            digest.update(block)
            size += writing.write(block)
        writing.flush()
        os.fsync(writing.fileno())
    if (digest.hexdigest(), size) != stated:
        raise ExportError(f"{source}: differs from its manifest ({size} bytes, {stated[1]} expected)")


def _holds(destination: Path, manifest: Mapping[str, Any], text: str) -> bool:
    """Whether the directory is this export already, with no other file in it."""
    there = {path.relative_to(destination).as_posix() for path in destination.rglob("*") if path.is_file()}
    return (
        there == {*manifest["files"], CARD}
        and (destination / CARD).read_text(encoding="utf-8", errors="replace") == text
        and all(file_sha256(destination / name) == sha256 for name, (sha256, _) in manifest["files"].items())
    )


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def model_card(card: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    """The README.md of an exported model, in Markdown."""
    parent, extra = manifest.get("parent") or {}, manifest.get("extra") or {}
    name = card.get("version") or f"{manifest.get('model', 'model')}@{manifest.get('number', 0)}"
    facts = [
        ("Version", name),
        ("Parent", f"{parent['model']}@{parent['number']}" if parent else "the run's starting model"),
        ("Run", plain(card.get("run"))),
        ("Seed", plain(card.get("seed"))),
        ("Recipe SHA-256", plain(card.get("recipe_sha256"))),
        *(
            (key.replace("_", " ").capitalize(), json.dumps(extra[key], sort_keys=True))
            for key in sorted(extra)
        ),
    ]
    evaluation = without_nan(card.get("evaluation") or {})
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), trim_blocks=True, keep_trailing_newline=True
    )  # Markdown: no escaping
    return environment.get_template("model_card.md.j2").render(
        name=name,
        facts=facts,
        evaluation=evaluation,
        rows=_model_rows(evaluation),
        measures=_measures(evaluation),
    )


def _model_rows(evaluation: Mapping[str, Any]) -> list[list[str]]:
    return [
        [
            str(model),
            with_interval(row.get("gold")),
            with_interval(row.get("proxy")),
            amount(row.get("response_tokens_mean")),
        ]
        for model, row in in_order(evaluation).items()
    ]


def _measures(evaluation: Mapping[str, Any]) -> list[tuple[str, str]]:
    rate, kl = evaluation.get("win_rate") or {}, evaluation.get("sequence_kl") or {}
    found = [
        ("Win rate over the model before", share(rate.get("rate"), rate.get("low"), rate.get("high"))),
        ("Gap to the best possible gold score closed", share(evaluation.get("gap_closed"))),
        ("KL to the reference, nats per sequence (k1)", with_interval(kl.get("k1"))),
    ]
    return [(name, value) for name, value in found if value != UNKNOWN]
