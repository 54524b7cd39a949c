"""Faults of the disk: a byte that reads wrong for a while, and a disk without room."""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

STEP_BYTES = 1 << 16


@contextlib.contextmanager
def corrupted(file: Path) -> Iterator[None]:
    """Inverts the byte in the middle of a file; puts it back when the block is left."""
    place = file.stat().st_size // 2
    _invert(file, place)
    try:
        yield
    finally:
        if file.exists():
            _invert(file, place)


def _invert(file: Path, place: int) -> None:
    with file.open("r+b", buffering=0) as stream:
        stream.seek(place)
        byte = stream.read(1)
        stream.seek(place)
        stream.write(bytes([byte[0] ^ 0xFF]))


def fill(directory: Path) -> Path:
    """Takes every free byte of a small file system; gives the ballast file, whose removal is the cure."""
    ballast = directory / f"ballast-{os.getpid()}"
    with ballast.open("ab", buffering=0) as stream, contextlib.suppress(OSError):
        while stream.write(b"\0" * STEP_BYTES) == STEP_BYTES:
            pass
    return ballast


def refuse_fsync(limit: int = 1) -> Callable[[], None]:
    """Where no small file system can be mounted: the next fsync calls of this process find no room.

    Gives what ends it. A kernel that allocates late tells of a full disk at fsync too.
    """
    real, left = os.fsync, [limit]

    def full(descriptor: Any) -> None:
        if left[0] > 0:
            left[0] -= 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    def end() -> None:
        os.fsync = real

    os.fsync = full  # type: ignore[assignment]
    return end


def full_disk(directory: str) -> Callable[[], None]:
    """Fills the small file system at `directory`, or makes fsync fail where there is none; gives the cure."""
    if not directory:
        return refuse_fsync()
    ballast = fill(Path(directory))
    return lambda: ballast.unlink(missing_ok=True)
