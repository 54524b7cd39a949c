"""Moves a process's wall clock, as its own C code and the libraries' see it, and nobody else's.

A patch of time.time alone would be a lie: gRPC's core reads the clock in C, and would see no jump where
Python sees one. So a small library is compiled and preloaded.
"""

import ctypes
import os
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")
LIBRARY = "clock.so"


def build(directory: Path) -> Path:
    """Compiles the library into a directory, once. CalledProcessError with the compiler's words."""
    library = directory / LIBRARY
    if not library.exists():
        beside = directory / f"{LIBRARY}.{os.getpid()}.tmp"
        subprocess.run(
            ["cc", "-O1", "-shared", "-fPIC", "-o", str(beside), str(SOURCE), "-ldl"],
            check=True,
            capture_output=True,
            timeout=60,
        )
        beside.replace(library)
    return library


def preload(directory: Path) -> dict[str, str]:
    """The environment that preloads the library."""
    return {"LD_PRELOAD": str(build(directory))}


def jump(seconds: float) -> None:
    """Moves this process's wall clock; AttributeError where the library is not preloaded."""
    ctypes.CDLL(None).trueline_jump_clock(ctypes.c_long(int(seconds)))
