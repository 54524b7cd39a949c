"""Model versions on disk: published whole, named by a pointer, verified before they are read.

    models_dir/policy/v000012/manifest.json      every file's SHA-256 and size, the parent, extras
                             model.safetensors ...
    models_dir/policy/COMMITTED                  {"number": 12, "sha256": "..."}

A version is written beside its place, fsynced, renamed, and only then named by the pointer, so that a
reader sees the old version or the new one and never half of either. No torch here: the orchestrator's
side of the house may read manifests too.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from services.durable_files import FileDigest, digest_of, fsync
from services.model_files import weights_fault

MANIFEST = "manifest.json"
POINTER = "COMMITTED"

DAMAGED = "weights_damaged"  # what a caller is told as the reason
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
HUB = "hf:"  # begins the path that stands for a hub name (services/hub.py)


class WeightsError(ValueError):
    """A weights directory that cannot be served; says which file and what is wrong with it."""

    def __init__(self, path: Path | str, what: str) -> None:
        super().__init__(f"{path}: {what}")
        self.path, self.what = Path(path), what


class WeightsDamaged(WeightsError):
    """A published version is not on disk as it was published; its trainer can publish it again."""


class VersionExists(WeightsError):
    """The version number is taken by other bytes: versions are immutable."""


@dataclass(frozen=True)
class ModelVersion:
    """Names one immutable version: ModelVersion("policy", 12, "9f86d0..."). Number 0 is a plain directory."""

    model: str
    number: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.model}@{self.number}"


@dataclass(frozen=True)
class Manifest:
    """What a version holds. `sha256` is the digest of the manifest's own bytes, and so of every file."""

    model: str
    number: int
    parent: ModelVersion | None
    files: dict[str, FileDigest]
    extra: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""

    @property
    def version(self) -> ModelVersion:
        """The name of this version."""
        return ModelVersion(self.model, self.number, self.sha256)

    @property
    def bytes(self) -> int:
        """Bytes of all files together."""
        return sum(digest.bytes for digest in self.files.values())


@dataclass(frozen=True)
class PublishedVersion:
    """A version that now lies on disk and is named by the pointer."""

    version: ModelVersion
    path: Path
    bytes: int
    seconds: float


def version_directory(models_dir: Path, model: str, number: int) -> Path:
    """models_dir/policy/v000012 for ("policy", 12)."""
    if not _NAME.fullmatch(model):
        raise WeightsError(models_dir / model, "a model's name holds letters, digits, '.', '_' and '-' only")
    return models_dir / model / f"v{number:06d}"


def publish(
    models_dir: Path,
    model: str,
    number: int,
    write: Callable[[Path], None],
    *,
    parent: ModelVersion | None,
    extra: dict[str, Any] | None = None,
) -> PublishedVersion:
    """Writes a version through `write(directory)` and commits it; the same bytes twice are one version.

    A version of these bytes whose files were damaged since is replaced, which heals it. Raises
    VersionExists when the number is taken by other bytes. The pointer only moves forward: a repeat
    of an old publish does not take readers back.
    """
    started = time.monotonic()
    if number < 1:
        raise ValueError(f"number {number}: published versions count from 1")
    final = version_directory(models_dir, model, number)
    staging = final.with_name(f"{final.name}.tmp-{secrets.token_hex(4)}")
    staging.mkdir(parents=True)
    try:
        write(staging)
        manifest = _write_manifest(staging, model, number, parent, extra or {})
        _settle(staging, final, manifest)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    _point(models_dir / model, manifest.version)
    return PublishedVersion(manifest.version, final, manifest.bytes, time.monotonic() - started)


def _write_manifest(
    staging: Path, model: str, number: int, parent: ModelVersion | None, extra: dict[str, Any]
) -> Manifest:
    """Digests what lies in `staging`, flushes it to the disk and writes the manifest beside it."""
    files = {}
    for file in _files(staging):
        files[file.relative_to(staging).as_posix()] = digest_of(file)
        fsync(file)
    _require_safetensors(staging, files)
    content = _canonical(model, number, parent, files, extra)
    (staging / MANIFEST).write_bytes(content)
    for path in (staging / MANIFEST, *(p for p in staging.rglob("*") if p.is_dir()), staging):
        fsync(path)
    return Manifest(model, number, parent, files, extra, hashlib.sha256(content).hexdigest())


def _settle(staging: Path, final: Path, manifest: Manifest) -> None:
    """Renames the staged version into place, or finds that the very same one is there already."""
    try:
        if not final.exists():
            os.rename(staging, final)  # a directory that appears meanwhile makes this fail, never overwrite
            fsync(final.parent)
            return
    except OSError:
        if not final.exists():
            raise
    if not _is_damaged(final, manifest):
        return
    aside = final.with_name(f"{final.name}.tmp-damaged-{secrets.token_hex(4)}")
    os.rename(final, aside)
    os.rename(staging, final)
    fsync(final.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _is_damaged(final: Path, manifest: Manifest) -> bool:
    """Whether what lies there is this very version with its files damaged; False where it is whole.

    Raises VersionExists for another version. Where the manifest was damaged too, the pointer tells.
    """
    with contextlib.suppress(WeightsError):
        if verify(final).sha256 == manifest.sha256:
            return False
    with contextlib.suppress(WeightsError):
        if _read_pointer(final.parent / POINTER) == (manifest.number, manifest.sha256):
            return True
    there = manifest.sha256  # of a manifest that cannot be read
    with contextlib.suppress(WeightsError):
        there = read_manifest(final).sha256
    if there == manifest.sha256:
        return True
    raise VersionExists(final, f"holds {there}, which is not {manifest.sha256}; a version never changes")


def _point(model_dir: Path, version: ModelVersion) -> None:
    """Replaces the pointer file in one move, unless it names a later version already."""
    try:
        pointed = _read_pointer(model_dir / POINTER)
    except WeightsError:
        pointed = None  # damaged: it is written anew
    if pointed and (pointed[0] > version.number or pointed == (version.number, version.sha256)):
        return
    staging = model_dir / f"{POINTER}.tmp-{secrets.token_hex(4)}"
    staging.write_text(
        json.dumps({"number": version.number, "sha256": version.sha256}, sort_keys=True) + "\n"
    )
    fsync(staging)
    os.replace(staging, model_dir / POINTER)
    fsync(model_dir)


def committed(models_dir: Path, model: str) -> tuple[ModelVersion, Path] | None:
    """The version that the pointer names, and where it lies; None before the first publish. Not verified."""
    pointed = _read_pointer(models_dir / model / POINTER)
    if pointed is None:
        return None
    number, sha256 = pointed
    return ModelVersion(model, number, sha256), version_directory(models_dir, model, number)


def _read_pointer(pointer: Path) -> tuple[int, str] | None:
    try:
        content = json.loads(pointer.read_bytes())
        return int(content["number"]), str(content["sha256"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(pointer, f"is not a version pointer ({error!r})") from None


def read_manifest(path: Path) -> Manifest:
    """The manifest of a version directory, unverified: see `verify`."""
    file = path / MANIFEST
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        reason = "the directory does not exist" if not path.is_dir() else "missing: not a published version"
        raise WeightsError(file, reason) from None
    except OSError as error:
        raise WeightsError(file, f"cannot be read ({error.strerror})") from None
    try:
        record = json.loads(content)
        parent = None if record["parent"] is None else ModelVersion(**record["parent"])
        files = {str(name): FileDigest(**digest) for name, digest in record["files"].items()}
        model, number, extra = str(record["model"]), int(record["number"]), dict(record["extra"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(file, f"is not a manifest ({error!r})") from None
    return Manifest(model, number, parent, files, extra, hashlib.sha256(content).hexdigest())


def verify(path: Path, expected: ModelVersion | None = None) -> Manifest:
    """Reads every byte of a version and compares with its manifest; the manifest, if all is well.

    Raises WeightsError for a missing, foreign, changed or cut-off file, for a version other than `expected`
    and for weights that only pickle could read: WeightsDamaged where `expected` says that it was published.
    """
    try:
        return _verified(path, expected)
    except WeightsError as error:
        if expected is None or expected.number == 0:
            raise
        raise WeightsDamaged(error.path, error.what) from None


def _verified(path: Path, expected: ModelVersion | None) -> Manifest:
    manifest = read_manifest(path)
    if expected is not None and manifest.version != expected:
        raise WeightsError(
            path / MANIFEST,
            f"holds {manifest.version} ({manifest.sha256}), expected {expected} ({expected.sha256})",
        )
    present = {file.relative_to(path).as_posix() for file in _files(path)} - {MANIFEST}
    for name in sorted(present - manifest.files.keys()):
        raise WeightsError(path / name, "is not in the manifest")
    for name, stated in manifest.files.items():
        if name not in present:
            raise WeightsError(path / name, "is in the manifest and missing from the directory")
        _compare(path / name, stated)
    _require_safetensors(path, manifest.files)
    return manifest


def describe_plain(path: Path) -> Manifest:
    """Number 0 of a plain Hugging Face directory that has no manifest; its name is the directory's.

    Only where the caller says that a plain directory is wanted: nothing vouches for its bytes, so the
    weights files are at least checked to be whole. A directory with a manifest is verified as one.
    """
    if (path / MANIFEST).exists():
        return verify(path)
    if not path.is_dir():
        raise WeightsError(path, "the directory does not exist")
    files = {file.relative_to(path).as_posix(): digest_of(file) for file in _files(path)}
    _require_safetensors(path, files)
    for name in files:
        if name.endswith(".safetensors"):
            check_safetensors(path / name)
    model = path.resolve().name
    content = _canonical(model, 0, None, files, {})
    return Manifest(model, 0, None, files, {}, hashlib.sha256(content).hexdigest())


def check_safetensors(file: Path) -> None:
    """Refuses a safetensors file whose header or length is wrong, as after a broken copy."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
        if size < 8 or header_bytes > size - 8:
            raise WeightsError(file, f"is cut off: {size} bytes do not hold its header")
        try:
            header = json.loads(stream.read(header_bytes))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            raise WeightsError(file, "is not a safetensors file: its header cannot be read") from None
    whole = 8 + header_bytes + max(ends, default=0)
    if size != whole:
        raise WeightsError(file, f"holds {size} bytes, its header says {whole}: half-written or damaged")


def path_of(uri: str) -> Path:
    """The path that an absolute path, a file: URI or an hf: one names; WeightsError for anything else."""
    parts = urlsplit(uri)
    if parts.scheme == "hf" and re.fullmatch(r"hf://[\w.-]+(/[\w.-]+)?(@[\w./-]+)?", uri):
        return Path(HUB, uri.removeprefix("hf://"))
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        uri = unquote(parts.path)
    if not uri.startswith("/"):
        raise WeightsError(uri or "''", "neither an absolute path nor a file: or hf: URI")
    return Path(uri)


def _canonical(
    model: str,
    number: int,
    parent: ModelVersion | None,
    files: dict[str, FileDigest],
    extra: dict[str, Any],
) -> bytes:
    """The one byte string of a manifest. It holds no time stamp: equal weights are an equal version."""
    record = {
        "model": model,
        "number": number,
        "parent": None if parent is None else vars(parent),
        "files": {name: vars(digest) for name, digest in files.items()},
        "extra": extra,
    }
    return (json.dumps(record, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _require_safetensors(path: Path, files: dict[str, FileDigest]) -> None:
    """Refuses what is no whole model in safetensors."""
    fault = weights_fault(files)
    if fault is not None:
        raise WeightsError(path / fault[0], fault[1])


def _compare(file: Path, stated: FileDigest) -> None:
    size = file.stat().st_size
    if size != stated.bytes:
        raise WeightsError(file, f"holds {size} bytes, its manifest says {stated.bytes}: half-written")
    if digest_of(file) != stated:
        raise WeightsError(file, f"is damaged: its SHA-256 is not {stated.sha256}")


def _files(directory: Path) -> Iterator[Path]:
    """Regular files below a directory in order of name; hidden ones (.gitattributes) do not count."""
    for path in sorted(directory.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(directory).parts)
        if path.is_file() and not hidden:
            yield path


def identify(path: Path, expected: ModelVersion | None) -> Manifest:
    """The verified manifest of a directory. A plain one passes only as version 0 or when any is welcome."""
    plain_welcome = expected is None or expected.number == 0
    if not plain_welcome or (path / MANIFEST).exists():
        return verify(path, expected)
    manifest = describe_plain(path)
    if expected is not None and manifest.version != expected:
        raise WeightsError(
            path, f"is {manifest.version} ({manifest.sha256}), expected {expected} ({expected.sha256})"
        )
    return manifest
