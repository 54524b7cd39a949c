"""The mathematics of ragged rows in rectangular tensors: padding, positions, log-probs of responses.

Shapes: B rows, T tokens, R response tokens, K kept positions, V vocabulary. A mask is True at real tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

TokenRows = Sequence[Sequence[int]]

# Of a micro-batch without gradients, padding included: large enough to fill the cores, small enough that the
# logits of a 150k-token vocabulary stay near a gigabyte.
_TOKENS_AT_ONCE = 2048


def pad_right(rows: TokenRows, pad_id: int) -> tuple[Tensor, Tensor]:
    """(ids_BT, mask_BT) with the padding behind: [[5, 6], [7]] -> [[5, 6], [7, pad]]."""
    width = max(map(len, rows))
    ids_BT = torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in rows], dtype=torch.long)
    return ids_BT, torch.arange(width) < _lengths(rows)[:, None]


def pad_left(rows: TokenRows, pad_id: int) -> tuple[Tensor, Tensor]:
    """(ids_BT, mask_BT) with the padding in front: [[5, 6], [7]] -> [[5, 6], [pad, 7]]."""
    width = max(map(len, rows))
    ids_BT = torch.tensor([[*[pad_id] * (width - len(row)), *row] for row in rows], dtype=torch.long)
    return ids_BT, torch.arange(width) >= width - _lengths(rows)[:, None]


def _lengths(rows: TokenRows) -> Tensor:
    return torch.tensor([len(row) for row in rows])


def last_token_index(mask_BT: Tensor) -> Tensor:
    """index_B of the last real token, whichever side the padding is on.

    `mask.sum(-1) - 1` is right under right padding only, `hidden[:, -1]` under left padding only.
    """
    places_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
    return (mask_BT.long() * places_T).argmax(-1)


def position_ids(mask_BT: Tensor) -> Tensor:
    """positions_BT that count real tokens from 0, so that padding in front moves nothing."""
    return (mask_BT.long().cumsum(-1) - 1).clamp(min=0)


def is_right_padded(mask_BT: Tensor) -> bool:
    """True when no row has padding before a real token (causal attention then needs no mask)."""
    return bool((mask_BT[:, 1:] <= mask_BT[:, :-1]).all())


def truncate_at_end(
    responses_BT: Tensor, end_ids: int | Sequence[int], pad_id: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cuts behind the first end-of-text id: (truncated_BT, mask_BT, first_end_B, has_end_B).

    The end itself is kept: it is an action and carries the score. first_end is T where there is none.

        [[7, 8, 2, 9]], end 2, pad 0 -> [[7, 8, 2, 0]], mask [[1, 1, 1, 0]], first_end [2], has_end [True]
    """
    ends = torch.as_tensor(end_ids, device=responses_BT.device).reshape(-1)
    is_end_BT = torch.isin(responses_BT, ends)
    has_end_B = is_end_BT.any(-1)
    first_end_B = torch.where(has_end_B, is_end_BT.long().argmax(-1), responses_BT.shape[1])
    mask_BT = torch.arange(responses_BT.shape[1], device=responses_BT.device) <= first_end_B[:, None]
    return responses_BT.masked_fill(~mask_BT, pad_id), mask_BT, first_end_B, has_end_B


def token_logprobs(logits_BTV: Tensor, ids_BT: Tensor, temperature: float) -> Tensor:
    """logprobs_BT in nats, float32, of each id under softmax(logits / temperature).

    Works with any leading shape. The temperature divides the logits of sampler, trainer and reference alike,
    or their ratio is not 1 where the weights are equal.
    """
    scaled = _scaled(logits_BTV, temperature)
    chosen = scaled.gather(-1, ids_BT[..., None]).squeeze(-1)
    return chosen - scaled.logsumexp(-1)


def token_entropy(logits_BTV: Tensor, temperature: float) -> Tensor:
    """entropy_BT in nats of softmax(logits / temperature): logsumexp(l) - sum p l."""
    scaled = _scaled(logits_BTV, temperature)
    return scaled.logsumexp(-1) - (scaled.softmax(-1) * scaled).sum(-1)


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    return logits.float() if temperature == 1.0 else logits.float() / temperature


def response_logprobs(
    model: nn.Module,
    prompt_rows: TokenRows,
    response_rows: TokenRows,
    temperature: float,
    pad_id: int,
    *,
    want_entropy: bool = False,
) -> tuple[Tensor, ...]:
    """(logprobs_BR, mask_BR[, entropy_BR]) of each response token given what stands before it; 0 at padding.

    The one function that policy, reference and trainer share, so that their numbers agree. Prompt and
    response lie side by side with the padding behind and no attention mask: causal attention never looks
    right, so padding reaches no real token, and attention takes its fast path. Logits are computed only from
    the shortest prompt's end on. Differentiable. Prompts and responses hold at least one id each.
    """
    device = next(model.parameters()).device
    ids_BT, _ = pad_right([[*p, *r] for p, r in zip(prompt_rows, response_rows, strict=True)], pad_id)
    ids_BT = ids_BT.to(device)
    first = min(map(len, prompt_rows)) - 1  # the earliest position that predicts a response token
    keep = ids_BT.shape[1] - 1 - first
    logits_BKV = model(input_ids=ids_BT[:, :-1], use_cache=False, logits_to_keep=keep).logits
    targets_BK = ids_BT[:, first + 1 :]

    lengths_B = _lengths(response_rows).to(device)
    places_R = torch.arange(int(lengths_B.max()), device=device)
    mask_BR = places_R < lengths_B[:, None]
    starts_B = _lengths(prompt_rows).to(device) - 1 - first
    index_BR = (starts_B[:, None] + places_R).clamp(max=keep - 1)

    def at_responses(values_BK: Tensor) -> Tensor:
        return values_BK.gather(1, index_BR).masked_fill(~mask_BR, 0.0)

    logprobs_BR = at_responses(token_logprobs(logits_BKV, targets_BK, temperature))
    if not want_entropy:
        return logprobs_BR, mask_BR
    return logprobs_BR, mask_BR, at_responses(token_entropy(logits_BKV, temperature))


@torch.inference_mode()
def score_rows(
    model: nn.Module, prompt_rows: TokenRows, response_rows: TokenRows, temperature: float, pad_id: int
) -> list[list[float]]:
    """Log-probs of each row's response tokens as lists, without gradients, rows of like length together."""
    lengths = [len(p) + len(r) for p, r in zip(prompt_rows, response_rows, strict=True)]
    scored: list[list[float]] = [[] for _ in lengths]
    for group in micro_batches(lengths, tokens=_TOKENS_AT_ONCE):
        prompts, responses = [prompt_rows[i] for i in group], [response_rows[i] for i in group]
        logprobs_BR = response_logprobs(model, prompts, responses, temperature, pad_id)[0].tolist()
        for row, logprobs in zip(group, logprobs_BR, strict=True):
            scored[row] = logprobs[: len(response_rows[row])]
    return scored


def micro_batches(
    lengths: Sequence[int], *, rows: int | None = None, tokens: int | None = None
) -> list[list[int]]:
    """Indices of rows grouped with others of like length, shortest first, to waste little on padding.

    A group has at most `rows` rows and at most `tokens` tokens, padding included (a row longer than that
    stands alone): micro_batches([9, 2, 8, 2], rows=2) -> [[1, 3], [2, 0]].
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        taken = len(groups[-1]) + 1 if groups else 0
        full = (rows is not None and taken > rows) or (tokens is not None and taken * lengths[index] > tokens)
        if not groups or full:
            groups.append([])
        groups[-1].append(index)
    return groups
