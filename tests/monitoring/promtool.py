"""Prometheus's own tools, where this machine has them."""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

PROMTOOL_SECONDS = 60

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="promtool is missing: install Debian's prometheus to check metrics, rules and alerts",
)


def promtool(*words: str, page: str | None = None, rules: Any = None) -> str:
    """What promtool says against a page of metrics, files, or rules given as data; "" where it is content."""
    with tempfile.TemporaryDirectory() as directory:
        if rules is not None:
            path = Path(directory) / "rules.json"  # JSON is YAML
            path.write_text(json.dumps(rules), encoding="utf-8")
            words = (*words, str(path))
        done = subprocess.run(
            ["promtool", *words], input=page, capture_output=True, text=True, timeout=PROMTOOL_SECONDS
        )
    said = (done.stdout + done.stderr).strip()
    assert done.returncode == 0 or said
    return said if done.returncode or page is not None else ""
