"""Files that are whole and durable, or not there: written beside, fsynced, renamed."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def replaced(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` when the block ends well; else what was there stays.

    with replaced(directory / "report.json") as file:
        file.write(b"{}")
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two writers on one file system may have one process number: they are in two pods.
    beside = path.with_name(f"{path.name}.tmp-{secrets.token_hex(8)}")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Makes a rename in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
