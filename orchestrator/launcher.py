"""Runs the services of a recipe on this machine: starts them, starts again what dies or hangs, ends them all.

A process that dies comes back under its name and address, after a pause that doubles up to a limit; one that
dies too often is the run's end (ServiceDied). One that answers no health check is killed, and so starts
again too.
"""

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any

from orchestrator import processes
from orchestrator.peers import CLIENTS
from orchestrator.processes import (
    REPOSITORY,
    Child,
    LaunchError,
    ServiceDied,
    Started,
    ending,
)
from orchestrator.recipe_scorers import combination_text
from orchestrator.recipe_settings import (
    JudgeSettings,
    RewardSettings,
    Services,
    ServiceSettings,
    Supervision,
    TrainerSettings,
)
from trueline import Access, CallError

__all__ = ["REPOSITORY", "Child", "LaunchError", "LocalProcesses", "LocalServices", "ServiceDied"]

SERVICE_NAMES = tuple(CLIENTS)
TERM_SECONDS = 10.0  # a draining service may finish its call
READY_SECONDS = 120.0
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 16.0  # calls wait for the process as well, and no longer than their patience
TOLD_LOG_LINES = 3  # of a service that is started again
HEALTH_PAUSE_SECONDS = 2.0
HEALTH_RETRY_SECONDS = 0.2

Tell = Callable[[str], None]
Check = Callable[[Started], Awaitable[bool]]  # whether it answers in time


def service_children(services: Services, python: str, only: frozenset[str] | None = None) -> list[Child]:
    """The processes of a recipe, less those that run elsewhere and those not in `only`.

    Two policy replicas are policy-0 and policy-1.
    """
    children = []
    for name in SERVICE_NAMES:
        settings: ServiceSettings = getattr(services, name)
        if settings.addresses or (only is not None and name not in only):
            continue
        if isinstance(settings, JudgeSettings) and not settings.is_whole:
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
    if isinstance(settings, JudgeSettings):
        flags += _judge_flags(settings)
    if isinstance(settings, RewardSettings):
        for name in settings.learned:
            flags += ["--learned", name]
        for name, function in settings.rules.items():
            flags += ["--rule", f"{name}={function}"]
        for name, combined in settings.combined.items():
            flags += ["--combined", f"{name}={combination_text(combined)}"]
    return flags


def _judge_flags(settings: JudgeSettings) -> list[str]:
    given = {
        "--constitution": settings.constitution,
        "--endpoint": settings.endpoint,
        "--endpoint-model": settings.endpoint_model,
        "--api-key-env": settings.api_key_env,
        "--requests-per-minute": settings.requests_per_minute,
    }
    flags = [word for flag, value in given.items() if value is not None for word in (flag, str(value))]
    if settings.model is not None:
        flags += ["--batch-rows", str(settings.batch_rows)]
    if settings.endpoint is not None:
        flags += ["--logprobs", settings.logprobs, "--requests-at-once", str(settings.requests_at_once)]
    return flags


def silent(text: str) -> None:
    """Tells nobody."""


class LocalServices:
    """Starts what the recipe does not give an address for; all are gone when the block is left.

    async with LocalServices(recipe.services, run_dir) as local:
        local.addresses["policy"]        ["127.0.0.1:40123"]
        await local.died                 raises ServiceDied as soon as one ends for good
    """

    def __init__(
        self,
        services: Services,
        run_dir: Path,
        python: str = sys.executable,
        *,
        only: frozenset[str] | None = None,
        ready_seconds: float = READY_SECONDS,
        supervision: Supervision | None = None,
        tell: Tell = silent,
    ) -> None:
        self.addresses: dict[str, list[str]] = {
            name: list(getattr(services, name).addresses) for name in SERVICE_NAMES
        }
        self.metrics_addresses: dict[str, str] = {}
        self._supervision = supervision or Supervision()
        self._processes = LocalProcesses(
            service_children(services, python, only),
            run_dir / "logs",
            ready_seconds=ready_seconds,
            supervision=self._supervision,
            answers=self._answers,
            tell=tell,
        )

    async def __aenter__(self) -> "LocalServices":
        await self._processes.__aenter__()
        for started in self._processes.started:
            self.addresses[service_of(started)].append(started.ready["address"])
            self.metrics_addresses[started.child.name] = started.ready.get("metrics_address", "")
        return self

    async def __aexit__(self, *exc: Any) -> None:
        await self._processes.__aexit__(*exc)

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by name, such as policy-0; those of processes started again are new."""
        return {started.child.name: started.process.pid for started in self._processes.started}

    @property
    def died(self) -> "asyncio.Future[None]":
        """Raises ServiceDied as soon as a process ends for good; never done otherwise."""
        return self._processes.died

    def kill_stuck(self, service: str, since: float, why: str) -> None:
        """Ends the local processes of a service that misses its deadlines; each is started again.

        Those that started after `since` (monotonic) never saw the call that was missed.
        """
        for started in self._processes.started:
            if service_of(started) == service and started.began < since:
                self._processes.kill(started, why)

    def peak_memory_bytes(self) -> dict[str, int]:
        """Most resident memory of each process so far, by name; still known after the block is left."""
        return self._processes.peak_memory_bytes()

    async def _answers(self, started: Started) -> bool:
        """Whether a process answers its health check in time, over connections of its own.

        A stopped process (SIGSTOP) lets its kernel accept connections and then says nothing on them, which
        fails each as UNAVAILABLE long before the time is over: only an answer counts, or the process's end.
        """
        until = time.monotonic() + self._supervision.health_seconds
        kind, address = CLIENTS[service_of(started)], started.ready["address"]
        async with kind.direct(address, access=Access()) as client:
            while started.process.returncode is None:
                try:
                    await client.health("", deadline=max(0.1, until - time.monotonic()))
                    return True
                except CallError:
                    if time.monotonic() >= until:
                        return False
                await asyncio.sleep(HEALTH_RETRY_SECONDS)
        return True  # it ended, which its watcher sees


def service_of(started: Started) -> str:
    """policy for policy-1."""
    return started.child.name.rpartition("-")[0]


async def always(started: Started) -> bool:
    """The check of a process that has no health service."""
    return True


class LocalProcesses:
    """Starts children, waits until each is ready, watches them, starts them again, and stops them all."""

    def __init__(
        self,
        children: list[Child],
        logs: Path,
        *,
        ready_seconds: float = READY_SECONDS,
        term_seconds: float = TERM_SECONDS,
        supervision: Supervision | None = None,
        answers: Check = always,
        tell: Tell = silent,
    ) -> None:
        self.children, self.logs = children, logs.absolute()
        self.ready_seconds, self.term_seconds = ready_seconds, term_seconds
        self.supervision = supervision or Supervision()
        self.started: list[Started] = []
        self._answers, self._tell = answers, tell
        self._restarts: dict[str, list[float]] = {child.name: [] for child in children}
        self._watchers: list[asyncio.Task[None]] = []
        self._checks: list[asyncio.Task[None]] = []
        self._coming_up: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def __aenter__(self) -> "LocalProcesses":
        self.died: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.died.add_done_callback(_retrieve)
        self.logs.mkdir(parents=True, exist_ok=True)
        for stale in self.logs.glob("*.ready"):
            stale.unlink(missing_ok=True)  # of an orchestrator that was killed before it read it
        try:
            for place, child in enumerate(self.children):
                self.started.append(await processes.start(child, self.logs))
                self._watchers.append(self._kept_up(self._watch(place)))
            await self._all_ready()
        except BaseException:
            await self._stop()
            raise
        self._checks = [self._kept_up(self._check(place)) for place in range(len(self.started))]
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
            started.remember_memory()
        return {started.child.name: started.peak_memory for started in self.started}

    def kill(self, started: Started, why: str) -> None:
        """Ends a process that hangs, stopped or not, with all it started; it is started again."""
        if started.is_ready:
            started.killed_for = why
            started.signal(signal.SIGKILL)

    async def _watch(self, place: int) -> None:
        """Waits for a process to end, and starts it again: until we stop, or it ended too often."""
        while True:
            started = self.started[place]
            code = await started.process.wait()
            started.signal(signal.SIGKILL)  # at once: later the number may be another's
            started.ready_file.unlink(missing_ok=True)
            if self._stopping:
                return
            pause = self._pause(started, code)
            if pause is None:
                return
            await asyncio.sleep(pause)
            if self._stopping or not await self._start_again(place):
                return

    def _pause(self, started: Started, code: int) -> float | None:
        """Seconds until a process is started again; None for never, and then the run is told."""
        limits, name, log = self.supervision, started.child.name, started.log
        why = f" ({started.killed_for})" if started.killed_for else ""
        now = time.monotonic()
        recent = [each for each in self._restarts[name] if now - each < limits.restart_window_seconds]
        if not started.ready.get("address") or len(recent) >= limits.restarts:
            if recent:
                why += f" after {len(recent)} restarts within {limits.restart_window_seconds:g} s"
            self._end_of_run(ServiceDied(started, code, why))
            return None
        self._restarts[name] = [*recent, now]
        pause = min(FIRST_PAUSE_SECONDS * float(2 ** min(len(recent), 32)), LONGEST_PAUSE_SECONDS)
        with contextlib.suppress(OSError):  # of the display: a full disk keeps no service down
            self._tell(
                f"{name} ended with {ending(code)}{why}; started again at "
                f"{started.ready['address']} in {pause:g} s, restart {len(recent) + 1} of "
                f"{limits.restarts} in {limits.restart_window_seconds:g} s; "
                f"its log is {log}{started.last_words(TOLD_LOG_LINES)}"
            )
        return pause

    async def _start_again(self, place: int) -> bool:
        """Starts a process under its old name and address; False where that cannot be."""
        before = self.started[place]
        try:
            started = await processes.start(before.child, self.logs, before.ready)
        except (LaunchError, OSError) as error:
            self._end_of_run(LaunchError(str(error)))
            return False
        started.peak_memory = before.peak_memory
        self.started[place] = started
        coming_up = asyncio.create_task(self._ready_or_killed(started))
        self._coming_up.add(coming_up)
        coming_up.add_done_callback(self._coming_up.discard)
        return True

    async def _ready_or_killed(self, started: Started) -> None:
        """A process that comes up but never gets ready is as good as dead."""
        try:
            await processes.wait_until_ready(started, self.ready_seconds)
        except LaunchError:
            started.killed_for = f"not ready after {self.ready_seconds:g} s"
            started.signal(signal.SIGKILL)

    async def _check(self, place: int) -> None:
        """Asks a process again and again whether it lives, and kills it where it does not answer."""
        while True:
            await asyncio.sleep(HEALTH_PAUSE_SECONDS)
            started = self.started[place]
            if started.is_ready and not await self._answers(started):
                seconds = self.supervision.health_seconds
                self.kill(started, f"killed: its health check was not answered for {seconds:g} s")

    def _kept_up(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that the run does without for no moment: an error of its own ends the run."""

        def ended(task: asyncio.Task[None]) -> None:
            error = None if task.cancelled() else task.exception()
            if isinstance(error, Exception):
                self._end_of_run(error)

        task = asyncio.create_task(work)
        task.add_done_callback(ended)
        return task

    def _end_of_run(self, error: Exception) -> None:
        if not self.died.done():
            self.died.set_exception(error)

    async def _all_ready(self) -> None:
        each_ready = [processes.wait_until_ready(each, self.ready_seconds) for each in self.started]
        waiting: asyncio.Future[Any] = asyncio.gather(*each_ready)
        waiting.add_done_callback(_retrieve)
        try:
            await asyncio.wait([waiting, self.died], return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0)  # a process that has ended is told of by its watcher
            if self.died.done():
                self.died.result()
            await waiting
            if not all(started.ready for started in self.started):
                await self.died  # one has ended before it was ready, and its watcher is about to say so
        finally:
            waiting.cancel()

    async def _stop(self) -> None:
        """SIGTERM to all, a bounded wait, SIGKILL to those left, each with all it started."""
        self.peak_memory_bytes()
        self._stopping = True
        for task in (*self._checks, *self._coming_up):
            task.cancel()
        for started, watcher in zip(self.started, self._watchers, strict=False):
            if started.process.returncode is not None:
                started.signal(signal.SIGKILL)
                watcher.cancel()  # it may be about to start its process again
        for number in (signal.SIGTERM, signal.SIGKILL):
            for started in self.started:
                if started.process.returncode is None:
                    started.signal(number)
            if self._watchers:
                await asyncio.wait(self._watchers, timeout=self.term_seconds)
        for started in self.started:
            if started.process.stdin is not None:
                started.process.stdin.close()
        if not self.died.done():
            self.died.cancel()


def _retrieve(future: "asyncio.Future[Any]") -> None:
    """Marks the failure as seen: a run that ends for another reason first need not look at it."""
    if not future.cancelled():
        future.exception()
