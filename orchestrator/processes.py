"""One process of this machine that cannot outlive its orchestrator.

It holds the reading end of a pipe as its stdin and ends at EOF; the kernel closes our end whatever kills us.
It leads a session of its own, so that Ctrl-C reaches the orchestrator only, which then stops it in order.
"""

import asyncio
import contextlib
import json
import os
import secrets
import signal
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
LOG_LINES = 20  # of a dead service, in its error
LOG_CHARACTERS = 300  # of each
POLL_SECONDS = 0.05


class LaunchError(RuntimeError):
    """A service did not come up."""


class ServiceDied(RuntimeError):
    """A service ended while the run needed it, and is not started again."""

    def __init__(self, started: "Started", exit_code: int, why: str = "") -> None:
        self.name, self.exit_code, self.log = started.child.name, exit_code, started.log
        said = started.last_words(LOG_LINES)
        super().__init__(f"{self.name} ended with {ending(exit_code)}{why}; its log is {self.log}{said}")


@dataclass(frozen=True)
class Child:
    """What to start: a command, and the file in which it says that its port is bound."""

    name: str
    command: list[str]
    threads: int


@dataclass
class Started:
    """A running child. Both ends that keep it alive are here: the process and its stdin pipe.

    `ready` is what it last said of itself: {"address", "metrics_address", "pid"}; started again, it is given
    the same addresses, so that whoever knew it finds it.
    """

    child: Child
    process: asyncio.subprocess.Process
    log: Path
    ready_file: Path
    ready: dict[str, Any] = field(default_factory=dict)
    peak_memory: int = 0
    began: float = field(default_factory=time.monotonic)
    killed_for: str = ""  # why we killed it ourselves
    log_start: int = 0  # where its part of the log begins, behind those of processes before it

    @property
    def is_ready(self) -> bool:
        """True while it runs and has bound its ports."""
        return self.ready.get("pid") == self.process.pid and self.process.returncode is None

    def last_words(self, lines: int) -> str:
        """The last lines that it wrote, each marked as a quotation."""
        return quoted_tail(self.log, lines, self.log_start)

    def remember_memory(self) -> None:
        """Keeps the most resident memory that any of its processes has had."""
        self.peak_memory = max(self.peak_memory, high_water_mark(self.process.pid))

    def signal(self, number: signal.Signals) -> None:
        """To its whole session, which its number names, so that nothing it started stays."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


async def start(child: Child, logs: Path, ready: dict[str, Any] | None = None) -> Started:
    """Starts a child, at the addresses that it had before where `ready` names them. Waits for nothing."""
    log = logs / f"{child.name}.log"
    # A name of its own: a stray that is just dying cannot answer for its successor.
    ready_file = logs / f"{child.name}-{secrets.token_hex(4)}.ready"
    command = [*child.command, "--ready-file", str(ready_file)]
    for flag, name in (("--address", "address"), ("--metrics-address", "metrics_address")):
        if ready and ready.get(name):
            command += [flag, ready[name]]  # behind the first mention, which it replaces
    with log.open("ab") as output:
        log_start = output.tell()
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=child_environment(child.threads),
                start_new_session=True,
            )
        except OSError as error:
            raise LaunchError(f"{child.name}: cannot run {child.command[0]}: {error}") from error
    return Started(child, process, log, ready_file, dict(ready or {}), log_start=log_start)


async def wait_until_ready(started: Started, seconds: float) -> None:
    """Returns when the child has bound its ports, or has ended; LaunchError when it does neither in time."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not started.ready_file.exists():  # written beside and renamed, so it is whole when it is there
        if started.process.returncode is not None:
            return
        if asyncio.get_running_loop().time() > deadline:
            late = f"{started.child.name}: not ready after {seconds:g} s"
            raise LaunchError(f"{late}; its log is {started.log}{started.last_words(LOG_LINES)}")
        await asyncio.sleep(POLL_SECONDS)
    started.ready = {**json.loads(started.ready_file.read_text()), "pid": started.process.pid}
    started.ready_file.unlink()


def child_environment(threads: int) -> dict[str, str]:
    """Ours, with its threads bounded, its pauses free, and the repository importable."""
    paths = [str(REPOSITORY), str(REPOSITORY / "protos"), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",  # idle threads that spin would take the cores of the other services
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONUNBUFFERED": "1",
    }


def high_water_mark(pid: int) -> int:
    """Most resident memory a living process has had, in bytes; 0 where it cannot be told."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def ending(exit_code: int) -> str:
    """How a process ended: "signal SIGKILL" or "exit code 1"."""
    return f"signal {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exit code {exit_code}"


def quoted_tail(log: Path, lines: int, start: int = 0) -> str:
    """The last lines of a log from byte `start` on, each marked as a quotation."""
    try:
        with log.open("rb") as file:
            file.seek(start)
            tail = deque((line.decode(errors="replace") for line in file), maxlen=lines)
        return "".join("\n  | " + line.rstrip("\n")[:LOG_CHARACTERS] for line in tail)
    except OSError:
        return ""
