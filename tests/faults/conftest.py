"""A file system that fills."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.small_disk import small_disk


@pytest.fixture
def small_tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 8 MiB; the test is skipped where none can be mounted."""
    with small_disk(tmp_path / "disk", 8) as mounted:
        if not mounted:
            pytest.skip("cannot mount a tmpfs here: it takes root and the right to mount")
        yield tmp_path / "disk"
