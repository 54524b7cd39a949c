"""A trainer of several ranks as the processes it really is, and what tests ask of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 100.0
THIS_PYTHON = [sys.executable]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


class GangProcess:
    """`python -m services.trainer --ranks 2`, or torchrun, with pipes on stdin and its log in a file."""

    def __init__(self, directory: Path, *flags: str, launcher: list[str] = THIS_PYTHON) -> None:
        directory.mkdir(parents=True)
        self.log_file, self._ready_file = directory / "log", directory / "ready.json"
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}"}
        command = [*launcher, "-m", "services.trainer", "--ready-file", str(self._ready_file)]
        with self.log_file.open("wb") as log:
            self.process: Any = subprocess.Popen(
                [*command, "--until-stdin-closes", *flags],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=ROOT,
            )
        self.address = self._address()

    def _address(self) -> str:
        deadline = time.monotonic() + START_SECONDS
        while not self._ready_file.exists():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log()
            time.sleep(0.1)
        return str(json.loads(self._ready_file.read_text())["address"])

    def log(self) -> str:
        return self.log_file.read_text()

    def ranks(self) -> list[psutil.Process]:
        """The trainer's processes, rank 0 first."""
        family = [psutil.Process(self.process.pid)]
        family += family[0].children(recursive=True)
        found = [each for each in family if "torch.distributed.run" not in each.cmdline()]
        return sorted(found, key=lambda each: int(each.environ().get("RANK", "0")))

    def end(self) -> None:
        """Closes standard input, as the orchestrator's death does, and kills what is left after that."""
        left = (
            psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        )
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
        alive = [each for each in left if not gone(each, within=20)]
        for each in alive:
            each.kill()
        assert not alive, "these outlived their gang"


def gone(process: psutil.Process, within: float) -> bool:
    """Whether a process ends in time; one that nobody reaps counts as ended."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.1)
    return False
