"""TGI's supervisor: what a file names is what is served, and a change of it is a restart."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.k8s.manifests import K8S

SCRIPT = K8S / "components/tgi/supervise.py"
LAUNCHER = """
import sys, time, pathlib
with open(sys.argv[1], "a") as log:
    log.write(sys.argv[3] + "\\n")
if sys.argv[3].endswith("broken"):
    sys.exit(7)
time.sleep(60)
"""


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_file_decides_what_is_served_and_a_signal_ends_it(tmp_path: Path) -> None:
    launcher, log, file = tmp_path / "launcher.py", tmp_path / "log", tmp_path / "version"
    launcher.write_text(LAUNCHER)
    log.touch()
    command = [sys.executable, str(SCRIPT), str(file), sys.executable, str(launcher), str(log)]
    with subprocess.Popen(command) as process:
        time.sleep(0.7)
        assert log.read_text() == "", "nobody has said a model yet"
        file.write_text("/models/v1\n")
        until(lambda: log.read_text() == "/models/v1\n")
        file.write_text("/models/v2\n")
        until(lambda: log.read_text() == "/models/v1\n/models/v2\n")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_a_launcher_that_ends_by_itself_ends_the_container(tmp_path: Path) -> None:
    launcher, file = tmp_path / "launcher.py", tmp_path / "version"
    launcher.write_text(LAUNCHER)
    file.write_text("broken")
    command = [sys.executable, str(SCRIPT), str(file), sys.executable, str(launcher), os.devnull]
    assert subprocess.run(command, timeout=30).returncode == 7
