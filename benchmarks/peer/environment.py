"""The environment that holds TRL, apart from Trueline's own."""

import subprocess
import sys
import venv
from pathlib import Path

# The last release that has a PPO trainer, in trl.experimental.
TRL = "1.12.0"
CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"


def prepare(directory: Path) -> Path:
    """The environment's Python; made on the first call, with Trueline's torch."""
    python, installed = directory / "bin" / "python", directory / f"installed-trl-{TRL}"
    if not installed.exists():
        print(f"==> installing TRL {TRL} into {directory}", file=sys.stderr)
        venv.create(directory, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "--constraint", str(CONSTRAINTS), f"trl=={TRL}"], check=True)
        installed.touch()
    return python
