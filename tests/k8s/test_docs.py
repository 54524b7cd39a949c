"""docs/deploy.md: each command is run here or marked with what it needs; the sizes are the formula's."""

import re
import shlex
import subprocess

import pytest

from tests.k8s.manifests import K8S, KUBECTL_SECONDS, ROOT, missing_kubectl
from trueline.version import __version__

TEXT = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(<!-- [^\n]+ -->\n)?```sh\n(.*?)```", TEXT, flags=re.DOTALL)
TESTED = [line for mark, block in BLOCKS if mark == "<!-- tested -->\n" for line in block.splitlines()]
TRAINING_BYTES, SERVING_BYTES = 32, 4


def test_every_block_is_tested_or_says_what_it_needs() -> None:
    assert BLOCKS and TESTED
    assert all(re.fullmatch(r"<!-- (tested|needs .+) -->\n", mark) for mark, _ in BLOCKS), BLOCKS


@pytest.mark.skipif(bool(missing_kubectl()), reason=missing_kubectl())
@pytest.mark.parametrize("command", TESTED)
def test_the_commands_marked_as_tested_run(command: str) -> None:
    done = subprocess.run(shlex.split(command), cwd=ROOT, capture_output=True, timeout=KUBECTL_SECONDS)
    assert done.returncode == 0, done.stderr


def test_the_images_and_directories_that_commands_name_exist() -> None:
    targets = set(re.findall(r"^FROM \S+ AS (\S+)$", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE))
    commands = "".join(block for _, block in BLOCKS)
    for target, tag in re.findall(r"--target (\S+).* --tag \S+:(\S+) ", commands):
        assert (target in targets, tag) == (True, __version__)
    for place in re.findall(r" k8s/(\S+)", commands):
        path = K8S / place
        assert path.is_file() or (path / "kustomization.yaml").is_file(), place


def test_every_component_is_in_the_table_and_nothing_else() -> None:
    listed = re.search(r"\| component \| for \|\n\|[-|]+\n((?:\|.*\n)+)", TEXT)
    assert listed is not None
    names = set(re.findall(r"^\| `([a-z-]+)`", listed[1], flags=re.MULTILINE))
    assert names == {path.parent.name for path in K8S.glob("components/*/kustomization.yaml")}


def test_the_sizes_follow_the_formula() -> None:
    rows = re.findall(r"^\| ([\d.]+) billion \| ([\d.]+) \| ([\d.]+) \|$", TEXT, flags=re.MULTILINE)
    assert len(rows) == 4
    for billions, training, serving in rows:
        assert float(training) == pytest.approx(TRAINING_BYTES * float(billions), abs=0.05)
        assert float(serving) == pytest.approx(SERVING_BYTES * float(billions), abs=0.05)
