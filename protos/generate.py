"""Writes the modules generated from the protos, beside them.

    python protos/generate.py                # in an environment of its own, as `make protos` does
    python protos/generate.py --output DIR   # elsewhere, for the test that the committed ones are fresh

The generator is the oldest that works, because generated code refuses a protobuf older than the one it was made for,
and outsiders pin old ones. 1.62.3 is the last whose output runs with protobuf 4: from 1.63 on the modules ask for
protobuf 5 and grpcio of the same minor. Its output runs on every protobuf from 4.21 to 7 and every grpcio from 1.49 on
(tests/wire/test_outsider.py is run at both ends). Wheels of it exist for Python 3.8 to 3.12.
"""

from __future__ import annotations

import argparse
import importlib.resources
import subprocess
import sys
import venv
from pathlib import Path

PROTOS = Path(__file__).resolve().parent
# setuptools: grpcio-tools 1.62 imports pkg_resources, which setuptools 81 dropped.
TOOLS = ["grpcio-tools==1.62.3", "protobuf==4.25.9", "setuptools<81"]
PYTHONS = [(3, 8), (3, 9), (3, 10), (3, 11), (3, 12)]


def main() -> int:
    """Generates every module; makes an environment with the pinned tools where this one lacks them."""
    parser = argparse.ArgumentParser(description="Generates the Python modules of the protos.")
    parser.add_argument("--output", type=Path, default=PROTOS, help="directory to write trueline/v1/ into")
    parser.add_argument(
        "--environment", type=Path, help="where to make, or find, the environment with the tools"
    )
    options = parser.parse_args()
    if options.environment is not None:
        return _in_environment(options.environment, options.output)
    return generate(options.output)


def generate(output: Path) -> int:
    """Runs protoc on every proto of the package; 0 when it succeeded."""
    from grpc_tools import protoc

    output.mkdir(parents=True, exist_ok=True)
    sources = sorted(str(path.relative_to(PROTOS)) for path in (PROTOS / "trueline").rglob("*.proto"))
    well_known = str(importlib.resources.files("grpc_tools") / "_proto")
    outputs = [f"--{plugin}_out={output}" for plugin in ("python", "pyi", "grpc_python")]
    return int(protoc.main(["protoc", f"-I{PROTOS}", f"-I{well_known}", *outputs, *sources]))


def _in_environment(environment: Path, output: Path) -> int:
    python = environment / "bin" / "python"
    if not (environment / "installed").exists():
        if sys.version_info[:2] not in PYTHONS:
            print(
                f"no wheel of {TOOLS[0]} for Python {sys.version.split()[0]}; use 3.8 to 3.12",
                file=sys.stderr,
            )
            return 2
        venv.create(environment, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--only-binary=:all:", *TOOLS], check=True)
        (environment / "installed").touch()
    return subprocess.run([python, __file__, "--output", str(output.resolve())], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
