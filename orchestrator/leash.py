"""python -m orchestrator.leash COMMAND ...: a command that ends with whoever started it, however that ends.

It is started as the leader of a session, with a pipe as stdin whose other end its parent holds. The kernel
closes that end when the parent dies, kill -9 included; then the whole session goes.
"""

import os
import signal
import subprocess
import sys
import threading
from typing import NoReturn

CANNOT_RUN = 127


def main(command: list[str]) -> int:
    """Runs the command to its end and returns its exit code; 127 where it cannot be run."""
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        print(f"cannot run {command[0]}: {error.strerror}", file=sys.stderr)
        return CANNOT_RUN
    threading.Thread(target=end_with_stdin, daemon=True).start()
    code = process.wait()
    return code if code >= 0 else 128 - code


def end_with_stdin() -> NoReturn:
    """Ends the session, this process included, once standard input is closed."""
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)
    raise AssertionError("killpg ends us too")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
