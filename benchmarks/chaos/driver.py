"""Drives the run as a patient person would: whenever the orchestrator has ended, it is told to resume."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.launcher import REPOSITORY
from tests.faults.installation import fault_environment
from tests.faults.plan import FaultPlan

NAME = "chaos"
POLL_SECONDS = 0.1
ERROR_LINES = 3


@dataclass
class Driven:
    """How a run went."""

    seconds: float = 0.0
    sessions: int = 0
    killed: int = 0
    """Sessions that ended by kill -9."""
    errors: list[str] = field(default_factory=list)
    """What the sessions that ended by themselves said."""
    stalls: list[str] = field(default_factory=list)
    """Where nothing happened for too long, and the session was killed for it."""
    finished: bool = False


@dataclass
class Driver:
    """One run in `runs`, under a fault plan or under none."""

    runs: Path
    recipe: Path
    plan: FaultPlan | None = None
    ledger: str | None = None
    stall_seconds: float = 120.0
    total_seconds: float = 3600.0
    max_sessions: int = 200

    def drive(self) -> Driven:
        """Runs, and resumes until the run has finished or the limits are reached."""
        self.runs.mkdir(parents=True, exist_ok=True)
        driven, began = Driven(), time.monotonic()
        while not driven.finished and driven.sessions < self.max_sessions:
            if time.monotonic() - began > self.total_seconds:
                driven.errors.append(f"not finished after {self.total_seconds:g} s")
                break
            driven.sessions += 1
            self._session(driven, began + self.total_seconds)
        driven.seconds = time.monotonic() - began
        return driven

    @property
    def output(self) -> Path:
        """What the orchestrator printed; not on a disk that fills."""
        return self.recipe.parent / f"{'unbroken' if self.plan is None else 'broken'}.log"

    def command(self, *words: str) -> list[str]:
        """python -m orchestrator WORDS for this run's place and ledger."""
        place = ["--runs", str(self.runs), *(["--ledger", self.ledger] if self.ledger else [])]
        return [sys.executable, "-m", "orchestrator", *words, *place]

    def environment(self) -> dict[str, str]:
        """One thread each, and the fault layer where there is a plan."""
        faults = fault_environment(self.plan.directory) if self.plan else {}
        return {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **faults}

    def _session(self, driven: Driven, deadline: float) -> None:
        begun = (self.runs / NAME / "recipe.yaml").exists() and driven.sessions > 1
        words = ["resume", NAME] if begun else ["run", str(self.recipe), "--name", NAME]
        from_here = self.output.stat().st_size if self.output.exists() else 0
        with self.output.open("a") as output:
            process = subprocess.Popen(
                self.command(*words), cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env=self.environment(), start_new_session=True,
            )  # fmt: skip
        try:
            stalled = self._watch(process, deadline)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
            self._end_stopped()
            self._free_disk()
        driven.finished = code == 0
        if stalled:
            driven.stalls.append(f"session {driven.sessions}: {stalled}")
        elif code == -signal.SIGKILL:
            driven.killed += 1
        elif code != 0:
            driven.errors.append(f"session {driven.sessions}: {self._said(from_here)}")

    def _watch(self, process: "subprocess.Popen[bytes]", deadline: float) -> str:
        """Waits for the session's end; says what was so when nothing happened for too long."""
        seen, since = self._pulse(), time.monotonic()
        while process.poll() is None:
            now = time.monotonic()
            if (pulse := self._pulse()) != seen:
                seen, since = pulse, now
            if now - since > self.stall_seconds or now > deadline:
                return f"nothing happened for {now - since:.0f} s; last: {self._said(0)}"
            time.sleep(POLL_SECONDS)
        return ""

    def _pulse(self) -> tuple[float, ...]:
        """Changes whenever the run gets on: a file of the run, a line of output, a fault."""
        rounds = self.runs / NAME / "rollouts" / "ppo"
        watched = [self.output, self.runs / NAME / "models" / "policy", rounds]
        if self.plan is not None:
            watched += [self.plan.pending, self.plan.directory]
        return tuple(path.stat().st_mtime for path in watched if path.exists())

    def _said(self, offset: int) -> str:
        with self.output.open("rb") as file:
            file.seek(offset)
            lines = file.read().decode(errors="replace").strip().splitlines()
        told = [line for line in lines if line.startswith("trueline:")] or lines[-ERROR_LINES:]
        return " | ".join(told[-ERROR_LINES:])[:600]

    def _free_disk(self) -> None:
        """Whoever filled the disk may have died before it could undo that: a person would make room, too."""
        for ballast in self.runs.parent.glob("ballast-*"):
            ballast.unlink(missing_ok=True)

    def _end_stopped(self) -> None:
        """A service that a fault has stopped sees no end of its orchestrator's pipe: it is ended here."""
        for fired in self.plan.all_fired() if self.plan else []:
            if fired.fault.kind == "hang" and fired.fault.detail == "stop":
                pid = int(fired.record["pid"])
                with contextlib.suppress(OSError):
                    if b"services." in Path(f"/proc/{pid}/cmdline").read_bytes():
                        os.killpg(pid, signal.SIGKILL)
