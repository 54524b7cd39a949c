"""Payloads: bulky records in files that ledger rows name by path and digest."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import Message

from orchestrator.data import file_sha256
from orchestrator.whole_files import replaced
from trueline.v1 import types_pb2

M = TypeVar("M", bound=Message)
DIGEST_LETTERS = 16  # of a digest in a file's name


class PayloadError(Exception):
    """A payload file is missing or is not what the ledger says."""


@dataclass(frozen=True)
class Payload:
    """A file and its digest, as a ledger row keeps it."""

    path: str
    sha256: str
    bytes: int

    def as_row(self) -> dict[str, Any]:
        """The JSON that goes into the ledger."""
        return asdict(self)

    def as_artifact(self) -> types_pb2.Artifact:
        """What a service is sent instead of the bytes."""
        return types_pb2.Artifact(uri=self.path, sha256=self.sha256)


def write_payload(path: Path, message: Message) -> Payload:
    """Writes a message so that it is whole and durable, or not there, at `path` with its digest in the name.

    An orchestrator that lost its lease and does not know it yet so replaces no file of the one that has it.
    """
    data = message.SerializeToString(deterministic=True)
    digest = hashlib.sha256(data).hexdigest()
    path = path.with_name(f"{path.stem}-{digest[:DIGEST_LETTERS]}{path.suffix}")
    with replaced(path) as file:
        file.write(data)
    return Payload(str(path.resolve()), digest, len(data))


def file_payload(path: Path) -> Payload:
    """A file that lies there already, as a ledger row names it."""
    return Payload(str(path.resolve()), file_sha256(path), path.stat().st_size)


def read_payload(payload: Payload, kind: type[M]) -> M:
    """Reads a payload back. PayloadError when the file is gone or its digest differs."""
    try:
        data = Path(payload.path).read_bytes()
    except OSError as error:
        raise PayloadError(f"{payload.path}: {error.strerror}") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != payload.sha256:
        raise PayloadError(f"{payload.path}: SHA-256 is {digest}, the ledger says {payload.sha256}")
    message = kind()
    message.ParseFromString(data)
    return message


def message_sha256(message: Message) -> str:
    """Digest of a message's canonical bytes: what a payload that holds it would have."""
    return hashlib.sha256(message.SerializeToString(deterministic=True)).hexdigest()
