"""The mathematics of one draw, by hand-computed values and by counting."""

import math
from typing import Any

import pytest
import torch

from services.policy.sampling import draw, keep_top, uniforms

LOGITS = torch.log(torch.tensor([[0.1, 0.4, 0.3, 0.2]]))


def drawn(u: float, **filters: Any) -> tuple[int, float]:
    ids, logprobs = draw(LOGITS, torch.tensor([u], dtype=torch.float64), 1.0, **filters)
    return int(ids), float(logprobs)


@pytest.mark.parametrize(
    ("u", "token"), [(0.0, 0), (0.0999, 0), (0.1001, 1), (0.4999, 1), (0.5001, 2), (0.9999, 3)]
)
def test_a_draw_is_the_inverse_of_the_cumulative_distribution(u: float, token: int) -> None:
    probabilities = [0.1, 0.4, 0.3, 0.2]
    assert drawn(u) == (token, pytest.approx(math.log(probabilities[token]), rel=1e-5))


def test_filtered_draws_are_renormalised_over_what_is_kept() -> None:
    assert drawn(0.0, top_k=2) == (1, pytest.approx(math.log(0.4 / 0.7), rel=1e-5))
    assert drawn(0.9999, top_k=2) == (2, pytest.approx(math.log(0.3 / 0.7), rel=1e-5))
    assert drawn(0.9999, top_p=0.8) == (3, pytest.approx(math.log(0.2 / 0.9), rel=1e-5))


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (0, 1.0, [0, 1, 2, 3]),
        (1, 1.0, [1]),
        (3, 1.0, [1, 2, 3]),
        (9, 1.0, [0, 1, 2, 3]),
        (0, 0.01, [1]),  # the likeliest always stays
        (0, 0.39, [1]),
        (0, 0.41, [1, 2]),
        (0, 0.71, [1, 2, 3]),
        (2, 0.58, [1, 2]),  # the nucleus is of the two that top_k left: 0.571, 0.429
        (2, 0.57, [1]),
    ],
)
def test_the_smallest_set_of_likeliest_tokens_is_kept(top_k: int, top_p: float, kept: list[int]) -> None:
    filtered = keep_top(LOGITS, top_k, top_p)
    assert torch.isfinite(filtered[0]).nonzero().flatten().tolist() == kept


def test_the_temperature_divides_the_logits() -> None:
    _, logprob = draw(LOGITS, torch.tensor([0.5], dtype=torch.float64), 0.5)
    assert float(logprob) == pytest.approx(math.log(0.4**2 / (0.01 + 0.16 + 0.09 + 0.04)), rel=1e-5)


def test_no_token_of_probability_zero_is_ever_drawn() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]]).expand(5, 5)
    u = torch.tensor([0.0, 0.25, 0.5, 0.75, 1 - 2**-32], dtype=torch.float64)
    assert draw(logits, u, 1.0)[0].tolist() == [1, 1, 3, 3, 3]


def test_logits_that_are_no_numbers_give_a_log_prob_that_is_none() -> None:
    _, logprob = draw(torch.full((1, 4), torch.nan), torch.tensor([0.5], dtype=torch.float64), 1.0)
    assert math.isnan(float(logprob))


def test_a_stream_is_a_function_of_seed_prompt_and_sample_alone() -> None:
    stream = uniforms(1, [5, 6], 0, 4)
    assert torch.equal(uniforms(1, [5, 6], 0, 9)[:4], stream)
    others = [
        uniforms(2, [5, 6], 0, 4),
        uniforms(1, [5, 7], 0, 4),
        uniforms(1, [5, 6], 1, 4),
        uniforms(1, [5], 6, 4),
    ]
    assert all(not torch.equal(other, stream) for other in others)
    # Written down once: a change would silently change what every seed means.
    assert stream.tolist() == pytest.approx(STREAM, abs=1e-9)


STREAM = [0.5547989532351494, 0.4448939156718552, 0.04646794614382088, 0.9364432170987129]


def test_streams_are_uniform_and_unlike_each_other() -> None:
    u = torch.stack([uniforms(7, [5, 6], sample, 64) for sample in range(512)])
    assert float(u.min()) >= 0 and float(u.max()) < 1
    n = u.numel()
    assert abs(float(u.mean()) - 0.5) < 4 / math.sqrt(12 * n)
    counts = torch.histc(u.float(), bins=16, min=0, max=1)
    assert float(((counts - n / 16) ** 2 / (n / 16)).sum()) < 39.3  # chi-squared, 15 degrees, p = 0.0006
    correlation = torch.corrcoef(u)[0, 1:]
    assert float(correlation.abs().max()) < 5 / math.sqrt(64)
