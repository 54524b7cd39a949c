"""The mathematics of one draw: each row's own random numbers, and a token from a row of logits.

Shapes: B rows, T new tokens, V vocabulary.
"""

import hashlib
import struct
from collections.abc import Sequence

import torch
from torch import Tensor

_DRAWS_PER_UNIT = 2**32


def uniforms(seed: int, prompt_ids: Sequence[int], sample_index: int, count: int) -> Tensor:
    """u_T in [0, 1), float64: one per position, decided by seed, prompt and sample index alone.

    SHA-3's extendable output (FIPS 202) of the three, so that neither batch nor replica, torch version nor
    `count` changes a number: a longer stream begins with the shorter one. 32 bits each.
    """
    stream = hashlib.shake_128(_key(seed, prompt_ids, sample_index)).digest(4 * count)
    return torch.tensor(struct.unpack(f"<{count}I", stream), dtype=torch.float64) / _DRAWS_PER_UNIT


def row_seed(seed: int, prompt_ids: Sequence[int], sample_index: int) -> int:
    """A row's own seed for an engine that takes one per request: 63 bits, by the same three."""
    digest = hashlib.shake_128(b"row" + _key(seed, prompt_ids, sample_index)).digest(8)
    return int.from_bytes(digest, "little") >> 1


def _key(seed: int, prompt_ids: Sequence[int], sample_index: int) -> bytes:
    return struct.pack(f"<QQQ{len(prompt_ids)}Q", seed, sample_index, len(prompt_ids), *prompt_ids)


def keep_top(logits_BV: Tensor, top_k: int, top_p: float) -> Tensor:
    """The logits with -inf at what is filtered out: first all but the k likeliest, then the nucleus.

    top_k 0 keeps all; top_p keeps the smallest set of likeliest tokens with at least that much probability
    (Holtzman et al. 2020), and so always the likeliest. Ties at the k-th place are all kept.
    """
    if 0 < top_k < logits_BV.shape[-1]:
        kth_B1 = logits_BV.topk(top_k, dim=-1).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < kth_B1, -torch.inf)
    if top_p < 1.0:
        sorted_BV, order_BV = logits_BV.sort(dim=-1, descending=True, stable=True)
        probabilities_BV = sorted_BV.softmax(-1, dtype=torch.float64)
        before_BV = probabilities_BV.cumsum(-1) - probabilities_BV
        dropped_BV = torch.zeros_like(before_BV, dtype=torch.bool)
        dropped_BV.scatter_(-1, order_BV, before_BV >= top_p)
        logits_BV = logits_BV.masked_fill(dropped_BV, -torch.inf)
    return logits_BV


def draw(
    logits_BV: Tensor, uniforms_B: Tensor, temperature: float, top_k: int = 0, top_p: float = 1.0
) -> tuple[Tensor, Tensor]:
    """(ids_B, logprobs_B): by inverse CDF, and the log-prob of each under what was drawn from.

    That is softmax(logits / temperature), renormalised over the kept tokens where top_k or top_p filter.
    """
    scaled_BV = logits_BV.float() if temperature == 1.0 else logits_BV.float() / temperature
    logprobs_BV = keep_top(scaled_BV, top_k, top_p).log_softmax(-1)
    cumulative_BV = logprobs_BV.exp().cumsum(-1, dtype=torch.float64)
    threshold_B1 = uniforms_B[:, None] * cumulative_BV[:, -1:]
    # The first id whose cumulative probability is above the threshold: none of probability 0 is drawn.
    ids_B1 = torch.searchsorted(cumulative_BV, threshold_B1, right=True)
    # Logits that are no numbers find none; they are to give a log-prob that is no number either.
    ids_B1 = ids_B1.clamp(max=logits_BV.shape[-1] - 1)
    return ids_B1.squeeze(-1), logprobs_BV.gather(-1, ids_B1).squeeze(-1)
