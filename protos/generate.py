"""Writes the modules generated from the protos, beside them.

    python protos/generate.py                    # in an environment that has the tools
    python protos/generate.py --environment DIR  # in an environment of its own, as `make protos` does
    python protos/generate.py --output DIR       # elsewhere, for the test that the committed ones are fresh

Outsiders pin old versions of grpcio and protobuf, so the tool is grpcio-tools 1.62.3: the newest whose
output asks nothing of what it runs with. 1.63 warns of every grpcio older than itself, and from 1.65 on
that is an error, and protobuf older than 5.26 is one too. What 1.62.3 writes runs from grpcio 1.49.1 (the
oldest with wheels for Python 3.11) and protobuf 4.21.6 (the oldest 4 that googleapis-common-protos accepts)
to grpcio 1.85 and protobuf 7, and tests/wire/test_outsider.py calls a service at both ends.
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
TOOLS = ["grpcio-tools==1.62.3", "grpcio==1.62.3", "protobuf==4.25.9", "setuptools<81"]
# For these the pinned tools have wheels.
PYTHONS = [(3, 10), (3, 11), (3, 12)]


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
                f"no wheel of {TOOLS[0]} for Python {sys.version.split()[0]}; use 3.10, 3.11 or 3.12",
                file=sys.stderr,
            )
            return 2
        venv.create(environment, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--only-binary=:all:", *TOOLS], check=True)
        (environment / "installed").touch()
    return subprocess.run([python, __file__, "--output", str(output.resolve())], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
