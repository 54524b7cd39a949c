"""The oldest Kubernetes client that pyproject.toml allows does the same; its models are others."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.conftest import ROOT


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_election_and_endpoints_work_with_the_oldest_client(tmp_path: Path) -> None:
    declared = re.search(r'"kubernetes>=(\d+),<\d+"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert declared is not None
    oldest = f"kubernetes=={declared[1]}.0.0"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(tmp_path), oldest]
    done = subprocess.run(install, capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip(f"{oldest} cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    path = os.pathsep.join([str(tmp_path), str(ROOT), str(ROOT / "protos")])
    check = f"import kubernetes; assert kubernetes.__version__.startswith('{declared[1]}.')"
    environment = {**os.environ, "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", check], env=environment, check=True, timeout=60)
    tests = ["tests/cluster/test_election.py", "tests/cluster/test_endpoints.py"]
    words = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", *tests]
    ran = subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert ran.returncode == 0, ran.stdout[-4000:]
