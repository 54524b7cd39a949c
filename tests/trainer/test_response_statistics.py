"""Variety of responses, and how their length goes with their score: hand-computed values."""

import pytest
import torch

from services.trainer.ppo_metrics import correlation
from services.trainer.response_statistics import distinct, repetition


def test_distinct_counts_over_the_whole_batch() -> None:
    assert distinct([[1, 1], [1, 2]], 1) == 2 / 4
    assert distinct([[1, 2, 1, 2], [1, 2]], 2) == 2 / 4
    assert distinct([[5]], 2) is None


def test_repetition_is_the_mean_share_of_returning_trigrams() -> None:
    assert repetition([[7, 7, 7, 7], [1, 2, 3, 4]]) == pytest.approx((1 / 2 + 0) / 2)
    assert repetition([[1, 2], [3]]) is None


def test_correlation_is_pearsons_and_none_where_nothing_varies() -> None:
    lengths = torch.tensor([1.0, 2.0, 3.0])
    assert correlation(torch.tensor([2.0, 4.0, 6.0]), lengths) == pytest.approx(1.0)
    assert correlation(torch.tensor([1.0, 0.0, 1.0]), lengths) == pytest.approx(0.0, abs=1e-7)
    assert correlation(torch.ones(3), lengths) is None
