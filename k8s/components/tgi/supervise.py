"""Runs TGI on the model that a file names, and again on another as soon as the file names another.

    python3 supervise.py FILE COMMAND...        COMMAND --model-id (what FILE says), once there is such a file

It runs in TGI's own image, which holds nothing of Trueline: the standard library alone. TGI that ends by
itself ends this too, with its exit code, and Kubernetes starts both again.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

POLL_SECONDS = 0.5
STOP_SECONDS = 60


def wanted(file: Path) -> str:
    """The directory to serve; "" while nobody has said one."""
    return file.read_text(encoding="utf-8").strip() if file.exists() else ""


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Ends TGI, its shards too: it is asked, and after a while it is told."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main(file: Path, command: list[str]) -> int:
    """Until a signal, or until TGI ends by itself."""
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: stopping.append(number))
    process, served = None, ""
    while not stopping:
        model = wanted(file)
        if model and model != served:
            if process is not None:
                stop(process)
            print(f"serving {model}", flush=True)
            process, served = subprocess.Popen([*command, "--model-id", model]), model
        if process is not None and process.poll() is not None:
            return process.returncode
        time.sleep(POLL_SECONDS)
    if process is not None:
        stop(process)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
