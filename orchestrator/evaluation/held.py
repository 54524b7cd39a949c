"""The versions of a run that an evaluation names, held in its own directory: retention may remove the run's.

    runs/RUN/evaluations/NAME/models/policy/v000010/    hard links to the files of RUN/models/policy/v000010

Links take no room while the run has its files; where the file system has none they are copies. A version is
held whole or not at all: it is linked beside its place and renamed.
"""

import hashlib
import json
import os
import secrets
import shutil
from pathlib import Path

from orchestrator.evaluation.subjects import EvaluationError, Origin
from orchestrator.ledger_place import holds_run
from orchestrator.whole_files import replaced, sync_directory

MANIFEST = "manifest.json"


def as_held(models: dict[str, str], origin: Origin, directory: Path) -> dict[str, str]:
    """The models, versions of the run where the evaluation in `directory` holds them, as its recipe says it.

    One that was begun before versions were held names them where they lay.
    """
    versions = {name: Path(place) for name, place in models.items() if origin.version_at(place)}
    held = {name: f"{{run}}/models/{each.parent.name}/{each.name}" for name, each in versions.items()}
    if holds_run(directory):
        begun = json.loads((directory / "recipe.yaml").read_bytes())["models"]
        held = {name: place for name, place in held.items() if begun.get(name) == place}
    return {**models, **held}


def hold_versions(models: dict[str, str], origin: Origin, directory: Path) -> None:
    """Holds those of the models that are versions of the run; what is held already stays as it is.

    EvaluationError for one that neither the run nor another evaluation of it has whole.
    """
    for place in models.values():
        row, version = origin.version_at(place), Path(place)
        held = directory / "models" / version.parent.name / version.name
        if row is None or held.is_dir():
            continue
        name = f"{row['model']}@{row['number']}"
        try:
            _link_version(origin.files_of(place), row["sha256"], held)
        except FileNotFoundError:
            raise EvaluationError(f"{name} is gone: the run's retention has removed its files") from None
        except ValueError as error:
            raise EvaluationError(f"{name} is damaged: {error}") from None


def _link_version(version: Path, sha256: str, held: Path) -> None:
    """FileNotFoundError where a file of the version is not there, or goes meanwhile; ValueError where its
    manifest is another than the run published."""
    manifest = (version / MANIFEST).read_bytes()
    if hashlib.sha256(manifest).hexdigest() != sha256:
        raise ValueError(f"the SHA-256 of {version / MANIFEST} is not {sha256}")
    # Swept, where we die, when the evaluation is driven.
    beside = held.with_name(f"{held.name}.tmp-{secrets.token_hex(4)}")
    try:
        for name in (*json.loads(manifest)["files"], MANIFEST):
            _link(version / name, beside / name)
        sync_directory(beside)
        os.rename(beside, held)
        sync_directory(held.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _link(file: Path, held: Path) -> None:
    held.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, held)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, one without links, or files of somebody else's
        with file.open("rb") as original, replaced(held) as copy:
            shutil.copyfileobj(original, copy)
