"""A small file system of its own, so that a full disk is a full disk."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

MOUNT_SECONDS = 30


@contextlib.contextmanager
def small_disk(directory: Path, mebibytes: int, files: int = 0) -> Iterator[bool]:
    """Mounts a tmpfs of this size at a new directory; False, and a plain one, where that is not allowed.

    `files`: so many files and directories fit, its own root among them; 0 sets no such limit.
    """
    directory.mkdir(parents=True)
    mounted = mounts(directory, mebibytes, files)
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(directory)], check=False, timeout=MOUNT_SECONDS)


def mounts(directory: Path, mebibytes: int, files: int = 0) -> bool:
    """Whether a tmpfs could be mounted there."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    limits = f"size={mebibytes}m" + (f",nr_inodes={files}" if files else "")
    command = ["mount", "-t", "tmpfs", "-o", limits, "tmpfs", str(directory)]
    done = subprocess.run(command, capture_output=True, timeout=MOUNT_SECONDS, check=False)
    return done.returncode == 0
