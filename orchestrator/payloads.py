"""Payloads: bulky records in files that ledger rows name by path and digest."""

import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import Message

from trueline.v1 import types_pb2

M = TypeVar("M", bound=Message)


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
    """Writes a message so that it is whole and durable, or not there: beside, fsync, rename, fsync."""
    data = message.SerializeToString(deterministic=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    with open(beside, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    sync_directory(path.parent)
    return Payload(str(path.resolve()), hashlib.sha256(data).hexdigest(), len(data))


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


def sync_directory(path: Path) -> None:
    """Makes a rename in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
