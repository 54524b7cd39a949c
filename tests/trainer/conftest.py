"""Models that the trainer's tests begin from."""

import pytest

from tests.tiny_models import write_tiny_model


@pytest.fixture
def start(tmp_path):
    return write_tiny_model(tmp_path / "start", "llama", seed=1)


@pytest.fixture
def reference(tmp_path):
    return write_tiny_model(tmp_path / "reference", "llama", seed=2)
