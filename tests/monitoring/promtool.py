"""Prometheus's own tools, where this machine has them."""

import shutil
import subprocess
from pathlib import Path

import pytest

PROMTOOL_SECONDS = 60

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="promtool is missing: install Debian's prometheus to check metrics, rules and alerts",
)


def promtool(*words: str, page: str | None = None, cwd: Path | None = None) -> str:
    """What promtool says to these words; "" where it finds nothing."""
    done = subprocess.run(
        ["promtool", *words], input=page, capture_output=True, text=True, timeout=PROMTOOL_SECONDS, cwd=cwd
    )
    return (done.stdout + done.stderr).strip() if done.returncode or page is not None else ""
