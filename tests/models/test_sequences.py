"""Padding, positions and log-probs: hand-computed values, and one function that is the same for everybody."""

import math

import pytest
import torch

from services.sequences import (
    is_right_padded,
    last_token_index,
    micro_batches,
    pad_left,
    pad_right,
    position_ids,
    response_logprobs,
    token_entropy,
    token_logprobs,
    truncate_at_end,
)
from tests.tiny_models import FAMILIES, PAD, tiny_causal

PROMPTS = [[5, 6, 7], [8] * 12, [9], [10, 11, 12, 13, 14], [15, 16]]
RESPONSES = [[20, 2], [21, 22, 23, 24, 25, 26, 27], [28] * 9, [2], [30, 31, 32, 2]]


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-5, atol=1e-5)


def test_rows_are_padded_on_the_side_that_is_asked_for() -> None:
    ids, mask = pad_right([[5, 6], [7]], 0)
    assert (ids.tolist(), mask.tolist()) == ([[5, 6], [7, 0]], [[True, True], [True, False]])
    ids, mask = pad_left([[5, 6], [7]], 0)
    assert (ids.tolist(), mask.tolist()) == ([[5, 6], [0, 7]], [[True, True], [False, True]])


@pytest.mark.known_answer("H1")
def test_the_last_real_token_is_found_under_both_paddings() -> None:
    right = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    left = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    assert last_token_index(right).tolist() == [3, 5, 5]
    assert last_token_index(left).tolist() == [5, 5]
    assert is_right_padded(right) and not is_right_padded(left)


@pytest.mark.known_answer("H2")
def test_positions_count_real_tokens() -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    assert position_ids(mask).tolist() == [[0, 0, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]


@pytest.mark.known_answer("H3")
def test_a_response_ends_with_its_first_end_of_text() -> None:
    responses = torch.tensor([[7, 8, 2, 9, 9], [7, 8, 9, 9, 9], [2, 7, 7, 7, 7]])
    truncated, mask, first_end, has_end = truncate_at_end(responses, 2, 0)
    assert truncated.tolist() == [[7, 8, 2, 0, 0], [7, 8, 9, 9, 9], [2, 0, 0, 0, 0]]
    assert mask.long().tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]]
    assert first_end.tolist() == [2, 5, 0]
    assert has_end.tolist() == [True, False, True]
    assert mask.sum(-1).tolist() == [3, 5, 1]


def test_any_of_several_ends_ends_a_response() -> None:
    _, mask, _, _ = truncate_at_end(torch.tensor([[7, 3, 2], [7, 2, 3]]), [2, 3], 0)
    assert mask.sum(-1).tolist() == [2, 2]


@pytest.mark.known_answer("B13")
def test_log_probs_and_entropy_have_the_published_values() -> None:
    logits = torch.tensor([1.0, 2.0, 3.0])
    ids = torch.arange(3)

    def of(temperature: float) -> list[float]:
        return token_logprobs(logits.expand(3, 3), ids, temperature).tolist()

    assert of(1.0) == pytest.approx([-2.4076059644443806, -1.4076059644443806, -0.4076059644443806], rel=1e-6)
    assert of(0.7) == pytest.approx([-3.1172612597876013, -1.6886898312161729, -0.2601184026447445], rel=1e-6)
    assert float(token_entropy(logits, 1.0)) == pytest.approx(0.832395581839939, rel=1e-6)
    assert float(token_entropy(torch.zeros(4), 0.7)) == pytest.approx(1.3862943611198906, rel=1e-6)
    assert float(token_entropy(torch.zeros(4), 1.0)) / math.log(2) == pytest.approx(2.0, rel=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.3])
def test_a_batch_gives_each_row_the_log_probs_that_it_has_alone(family: str, temperature: float) -> None:
    model = tiny_causal(family, seed=3)
    with torch.no_grad():
        logprobs, mask, entropy = response_logprobs(
            model, PROMPTS, RESPONSES, temperature, PAD, want_entropy=True
        )
        for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
            logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
            alone = (logits / temperature).log_softmax(-1)
            n = len(response)
            assert close(logprobs[row, :n], alone[torch.arange(n), torch.tensor(response)])
            assert close(entropy[row, :n], -(alone.exp() * alone).sum(-1))
            assert mask[row].sum() == n
            assert not logprobs[row, n:].any() and not entropy[row, n:].any()


def test_more_padding_changes_nothing() -> None:
    model = tiny_causal("llama", seed=3)
    with torch.no_grad():
        alone, _ = response_logprobs(model, PROMPTS[:1], RESPONSES[:1], 1.0, PAD)
        padded, _ = response_logprobs(model, [PROMPTS[0], [9] * 30], [RESPONSES[0], [9] * 30], 1.0, pad_id=17)
    assert close(padded[0, :2], alone[0])


def test_gradients_of_a_batch_are_those_of_its_rows_added() -> None:
    model = tiny_causal("llama", seed=3)

    def gradient(rows: range) -> torch.Tensor:
        model.zero_grad()
        for group in rows if isinstance(rows, list) else [rows]:
            prompts, responses = [PROMPTS[i] for i in group], [RESPONSES[i] for i in group]
            response_logprobs(model, prompts, responses, 0.7, PAD)[0].sum().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    whole = gradient(range(5))
    parts = gradient([[0, 1], [2], [3, 4]])  # type: ignore[arg-type]
    assert float((whole - parts).norm() / whole.norm()) < 1e-5


def test_groups_hold_rows_of_like_length_within_their_limits() -> None:
    assert micro_batches([9, 2, 8, 2], rows=2) == [[1, 3], [2, 0]]
    assert micro_batches([9, 2, 8, 2], tokens=9) == [[1, 3], [2], [0]]
    assert micro_batches([30, 2], tokens=9) == [[1], [0]]
    assert micro_batches([], rows=2) == []
