"""Shapes and tolerances of the known answers: each is checked in float64 and in float32."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

RELATIVE_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture
def tensor(dtype: torch.dtype) -> Callable[..., torch.Tensor]:
    """tensor([...]) of the precision under test."""
    return lambda data: torch.tensor(data, dtype=dtype)


@pytest.fixture
def close(dtype: torch.dtype) -> Callable[[Any, Any], None]:
    """close(actual, expected) at the precision under test; a difference next to 0 is held against 1."""
    tolerance = RELATIVE_TOLERANCE[dtype]

    def check(actual: Any, expected: Any) -> None:
        actual = torch.as_tensor(actual, dtype=dtype)
        expected = torch.as_tensor(expected, dtype=dtype)
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)

    return check
