"""Sizes, names, and nothing of anybody's machine; each rule shown to bite on a planted file."""

import shutil
import subprocess

import pytest

from tests.architecture.house import (
    LONGEST_FILE,
    LONGEST_FUNCTION,
    ROOT,
    machine_faults,
    name_faults,
    size_faults,
)


def tracked_files() -> list[str]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: which files are ours is not known")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listing.stdout.split("\0") if name]


def test_no_function_and_no_file_is_too_long():
    assert size_faults(ROOT) == []


def test_no_file_has_a_name_that_says_nothing():
    assert name_faults(ROOT) == []


def test_no_tracked_file_names_a_machine_or_a_registry():
    assert machine_faults(ROOT, tracked_files()) == []


def test_a_long_function_and_a_long_file_are_found(tmp_path):
    planted = tmp_path / "services" / "planted.py"
    planted.parent.mkdir()
    body = "    x = 1\n" * LONGEST_FUNCTION
    planted.write_text(f"async def long():\n{body}" + "y = 2\n" * LONGEST_FILE, encoding="utf-8")
    faults = size_faults(tmp_path)
    assert f"services/planted.py: long has {LONGEST_FUNCTION + 1} lines; {LONGEST_FUNCTION} at most" in faults
    assert any(f"{LONGEST_FILE} at most" in fault for fault in faults)


@pytest.mark.parametrize("name", ["utils", "text_utils", "common", "helpers", "base_scorer", "run_manager"])
def test_a_vague_name_is_found(tmp_path, name):
    planted = tmp_path / "services" / f"{name}.py"
    planted.parent.mkdir()
    planted.touch()
    assert len(name_faults(tmp_path)) == 1


@pytest.mark.parametrize(
    "line",
    [
        "cd /" + "home/somebody/trueline",
        "open('/" + "work/x.py')",
        "--index-url https://" + "pypi" + ".org/simple",
    ],
)
def test_a_machine_path_and_a_registry_are_found(tmp_path, line):
    (tmp_path / "planted.md").write_text(f"fine\n{line}\n", encoding="utf-8")
    (fault,) = machine_faults(tmp_path, ["planted.md"])
    assert fault.startswith("planted.md:2 names ")
