"""What is installed: the client alone, without torch and numpy."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ["torch", "numpy", "transformers", "grpc_health", "grpc_status", "pydantic", "prometheus_client"]


def test_the_client_imports_with_torch_and_numpy_blocked():
    block = f"import sys; sys.modules.update(dict.fromkeys({HEAVY!r}))"
    script = f"{block}\nimport trueline, trueline.cli\nprint(trueline.RewardClient('localhost:1').target)"
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(ROOT / "protos")},
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stdout) == (0, "localhost:1\n"), ran.stderr


def test_the_wheel_holds_the_client_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"trueline"}
    assert "trueline/py.typed" in names
    assert "trueline/v1/reward_pb2.pyi" in names
    assert "trueline/v1/reward.proto" in names


def test_every_module_of_the_client_is_in_the_wheel(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    ours = {path.relative_to(ROOT / "protos").as_posix() for path in (ROOT / "protos/trueline").rglob("*.py")}
    assert ours <= names


def test_the_wheel_asks_for_three_packages_and_no_more(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith("METADATA")]
        lines = archive.read(metadata).decode().splitlines()
    needed = [line for line in lines if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert sorted(line.split()[1].partition("<")[0] for line in needed) == [
        "googleapis-common-protos",
        "grpcio",
        "protobuf",
    ]


def test_torch_is_pinned_in_the_constraints_and_ranged_in_the_extra(project):
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    assert "torch>=2.4" in project["optional-dependencies"]["services"]
