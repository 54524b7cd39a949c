"""Runs the services of a recipe on this machine, each a process that cannot outlive its orchestrator.

Each child holds the reading end of a pipe as its stdin and ends at EOF; the kernel closes our end
whatever kills us. It leads a session of its own, so that Ctrl-C reaches the orchestrator only,
which then stops it in order.
"""

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from orchestrator.recipe_settings import RewardSettings, Services, ServiceSettings, TrainerSettings

REPOSITORY = Path(__file__).resolve().parent.parent
SERVICE_NAMES = ("policy", "reference", "reward", "trainer")
LOG_LINES = 20  # of a dead service, in its error
TERM_SECONDS = 10.0  # a draining service may finish its call


class LaunchError(RuntimeError):
    """A service did not come up."""


class ServiceDied(RuntimeError):
    """A service ended while the run needed it."""

    def __init__(self, name: str, exit_code: int, log: Path) -> None:
        self.name, self.exit_code, self.log = name, exit_code, log
        ending = f"signal {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exit code {exit_code}"
        super().__init__(f"{name} ended with {ending}; its log is {log}{quoted_tail(log)}")


@dataclass(frozen=True)
class Child:
    """What to start: a command, and the file in which it says that its port is bound."""

    name: str
    command: list[str]
    threads: int


@dataclass
class Started:
    """A running child. Both ends that keep it alive are here: the process and its stdin pipe."""

    child: Child
    process: asyncio.subprocess.Process
    log: Path
    ready_file: Path
    ready: dict[str, Any] = field(default_factory=dict)
    peak_memory: int = 0


def service_children(services: Services, python: str, only: frozenset[str] | None = None) -> list[Child]:
    """The processes of a recipe, less those that run elsewhere and those not in `only`.

    Two policy replicas are policy-0 and policy-1.
    """
    children = []
    for name in SERVICE_NAMES:
        settings: ServiceSettings = getattr(services, name)
        if settings.addresses or (only is not None and name not in only):
            continue
        for index in range(getattr(settings, "replicas", 1)):
            command = [python, "-m", f"services.{name}", *_flags(settings)]
            children.append(Child(f"{name}-{index}", command, settings.threads))
    return children


def _flags(settings: ServiceSettings) -> list[str]:
    flags = ["--address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0"]
    flags += ["--threads", str(settings.threads), "--until-stdin-closes"]
    if isinstance(settings, TrainerSettings):
        flags += ["--ranks", str(settings.ranks)] if settings.ranks > 1 else []
        flags += ["--activation-checkpointing"] if settings.activation_checkpointing else []
    if isinstance(settings, RewardSettings):
        for name in settings.learned:
            flags += ["--learned", name]
        for name, function in settings.rules.items():
            flags += ["--rule", f"{name}={function}"]
    return flags


class LocalServices:
    """Starts what the recipe does not give an address for; all are gone when the block is left.

    async with LocalServices(recipe.services, run_dir) as local:
        local.addresses["policy"]        ["127.0.0.1:40123"]
        await local.died                 raises ServiceDied as soon as one ends
    """

    def __init__(
        self,
        services: Services,
        run_dir: Path,
        python: str = sys.executable,
        *,
        only: frozenset[str] | None = None,
        ready_seconds: float = 120.0,
    ) -> None:
        self.addresses: dict[str, list[str]] = {
            name: list(getattr(services, name).addresses) for name in SERVICE_NAMES
        }
        self.metrics_addresses: dict[str, str] = {}
        self._processes = LocalProcesses(
            service_children(services, python, only), run_dir / "logs", ready_seconds=ready_seconds
        )

    async def __aenter__(self) -> "LocalServices":
        await self._processes.__aenter__()
        for started in self._processes.started:
            self.addresses[started.child.name.rpartition("-")[0]].append(started.ready["address"])
            self.metrics_addresses[started.child.name] = started.ready.get("metrics_address", "")
        return self

    async def __aexit__(self, *exc: Any) -> None:
        await self._processes.__aexit__(*exc)

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by name, such as policy-0."""
        return {started.child.name: started.process.pid for started in self._processes.started}

    @property
    def died(self) -> "asyncio.Future[None]":
        """Raises ServiceDied as soon as a process ends; never done otherwise."""
        return self._processes.died

    def peak_memory_bytes(self) -> dict[str, int]:
        """Most resident memory of each process so far, by name; still known after the block is left."""
        return self._processes.peak_memory_bytes()


class LocalProcesses:
    """Starts children, waits until each is ready, watches them, and stops them all."""

    def __init__(
        self,
        children: list[Child],
        logs: Path,
        *,
        ready_seconds: float = 120.0,
        term_seconds: float = TERM_SECONDS,
    ) -> None:
        self.children, self.logs = children, logs
        self.ready_seconds, self.term_seconds = ready_seconds, term_seconds
        self.started: list[Started] = []
        self._watchers: list[asyncio.Task[None]] = []
        self._stopping = False

    async def __aenter__(self) -> "LocalProcesses":
        self.died: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.died.add_done_callback(_retrieve)
        self.logs.mkdir(parents=True, exist_ok=True)
        for stale in self.logs.glob("*.ready"):
            stale.unlink(missing_ok=True)  # of an orchestrator that was killed before it read it
        try:
            for child in self.children:
                self.started.append(await self._start(child))
                self._watchers.append(asyncio.create_task(self._watch(self.started[-1])))
            await self._all_ready()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._stop()

    def peak_memory_bytes(self) -> dict[str, int]:
        """Most resident memory of each process so far (VmHWM), by name."""
        for started in self.started:
            started.peak_memory = max(started.peak_memory, high_water_mark(started.process.pid))
        return {started.child.name: started.peak_memory for started in self.started}

    async def _start(self, child: Child) -> Started:
        log = self.logs / f"{child.name}.log"
        # A name of its own: a stray that is just dying cannot answer for its successor.
        ready_file = self.logs.absolute() / f"{child.name}-{secrets.token_hex(4)}.ready"
        with log.open("ab") as output:
            try:
                process = await asyncio.create_subprocess_exec(
                    *child.command,
                    "--ready-file",
                    str(ready_file),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    env=child_environment(child.threads),
                    start_new_session=True,
                )
            except OSError as error:
                raise LaunchError(f"{child.name}: cannot run {child.command[0]}: {error}") from error
        return Started(child, process, log, ready_file)

    async def _watch(self, started: Started) -> None:
        code = await started.process.wait()
        _signal_group(started.process.pid, signal.SIGKILL)  # at once: later the number may be another's
        if not self._stopping and not self.died.done():
            self.died.set_exception(ServiceDied(started.child.name, code, started.log))

    async def _all_ready(self) -> None:
        waiting: asyncio.Future[Any] = asyncio.gather(*(self._ready(each) for each in self.started))
        waiting.add_done_callback(_retrieve)
        try:
            await asyncio.wait([waiting, self.died], return_when=asyncio.FIRST_COMPLETED)
            if self.died.done():
                self.died.result()
            await waiting
        finally:
            waiting.cancel()

    async def _ready(self, started: Started) -> None:
        deadline = asyncio.get_running_loop().time() + self.ready_seconds
        while not started.ready_file.exists():  # written beside and renamed, so it is whole when it is there
            if asyncio.get_running_loop().time() > deadline:
                late = f"{started.child.name}: not ready after {self.ready_seconds:g} s"
                raise LaunchError(f"{late}; its log is {started.log}{quoted_tail(started.log)}")
            await asyncio.sleep(0.05)
        started.ready = json.loads(started.ready_file.read_text())
        started.ready_file.unlink()

    async def _stop(self) -> None:
        """SIGTERM to all, a bounded wait, SIGKILL to those left, each with all it started."""
        self.peak_memory_bytes()
        self._stopping = True
        for number in (signal.SIGTERM, signal.SIGKILL):
            for started in self.started:
                if started.process.returncode is None:
                    _signal_group(started.process.pid, number)
            if self._watchers:
                await asyncio.wait(self._watchers, timeout=self.term_seconds)
        for started in self.started:
            if started.process.stdin is not None:
                started.process.stdin.close()
        if not self.died.done():
            self.died.cancel()


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


def quoted_tail(log: Path) -> str:
    """The last lines of a log, each marked as a quotation."""
    try:
        with log.open(encoding="utf-8", errors="replace") as file:
            return "".join("\n  | " + line.rstrip("\n") for line in deque(file, maxlen=LOG_LINES))
    except OSError:
        return ""


def _signal_group(pid: int, number: signal.Signals) -> None:
    """To a child's whole session, which its number names, so that nothing it started stays."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _retrieve(future: "asyncio.Future[Any]") -> None:
    """Marks the failure as seen: a run that ends for another reason first need not look at it."""
    if not future.cancelled():
        future.exception()
