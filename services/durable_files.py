"""Files on disk for good: what was flushed stays when the machine loses power; a digest tells if it did."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FileDigest:
    """What a manifest says of one file."""

    sha256: str
    bytes: int


def digest_of(file: Path) -> FileDigest:
    """SHA-256 (hex) and size of a file's content."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
        return FileDigest(digest.hexdigest(), stream.tell())


def fsync(path: Path) -> None:
    """Makes a file's content durable, or the names in a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
