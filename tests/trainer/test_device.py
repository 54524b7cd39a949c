"""Halves side by side share a model only where a pass leaves it as it was."""

import threading
from typing import Any

import torch
from transformers import Phi3Config, Phi3ForCausalLM

from services.models import BUILDING
from services.sequences import response_logprobs
from services.trainer.device import Compute, passes_change
from tests.tiny_models import FAMILIES, tiny_causal

PASSES = 40
SHORT, LONG = [5, 6, 7, 8], list(range(5, 35))


def model_with_two_sets_of_frequencies() -> Any:
    """Rows of more than 16 tokens are read with other rotary frequencies than shorter ones."""
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
    rope |= {"short_factor": [1.0] * 4, "long_factor": [4.0, 6.0, 8.0, 12.0]}
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 4, "max_position_embeddings": 64, "initializer_range": 0.3}
    ids = {"vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "sliding_window": None}
    with BUILDING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = Phi3Config(
            original_max_position_embeddings=16,
            rope_parameters=rope,
            **shape,
            **ids,  # type: ignore[arg-type]
        )
        return Phi3ForCausalLM(config).eval()


def test_a_model_whose_passes_change_it_is_known() -> None:
    assert passes_change(model_with_two_sets_of_frequencies())
    assert not any(passes_change(tiny_causal(family)) for family in FAMILIES)


def test_halves_that_share_such_a_model_take_turns_and_get_what_each_gets_alone() -> None:
    model = model_with_two_sets_of_frequencies()
    side_by_side = Compute(torch.device("cpu"), threads=2)
    compute = side_by_side.shared(model)
    assert side_by_side.two_halves and not compute.two_halves
    assert side_by_side.shared(tiny_causal()) is side_by_side

    @torch.no_grad()
    def read(prompt: list[int]) -> torch.Tensor:
        return response_logprobs(model, [prompt], [[9, 10, 11]], 1.0, 0)[0]

    torch.set_num_threads(1)
    alone = {len(prompt): read(prompt) for prompt in (SHORT, LONG)}
    threads = set()

    def half(prompt: list[int]) -> int:
        threads.add(threading.get_ident())
        return sum(not torch.equal(read(prompt), alone[len(prompt)]) for _ in range(PASSES))

    assert compute.both(lambda: half(SHORT), lambda: half(LONG)) == (0, 0)
    assert len(threads) == 1


def test_bits_repeat_on_a_cpu_alone() -> None:
    assert [Compute(torch.device(name)).deterministic for name in ("cpu", "cuda", "cuda:1")] == [
        True,
        False,
        False,
    ]
