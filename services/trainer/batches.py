"""From rows of ids to rectangles of tensors.

Shapes: B rows, T tokens, R response tokens. Rectangles are padded on the right and go without an attention
mask: causal attention never looks right, so padding reaches no real token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.models import ScalarModel
from services.sequences import TokenRows, pad_right


@dataclass(frozen=True)
class SftRow:
    """Ids and which of them bear loss: SftRow([1, 5, 7, 2], [False, False, True, True])."""

    ids: list[int]
    bears_loss: list[bool]

    @property
    def loss_tokens(self) -> int:
        """Tokens that bear loss; the first id has nothing before it that could predict it."""
        return sum(self.bears_loss[1:])


def sft_rectangle(rows: Sequence[SftRow], pad_id: int) -> tuple[Tensor, Tensor]:
    """(ids_BT, loss_mask_BT): the mask is True at the ids that are to be predicted, never at padding.

    prompt 5 6, response 7 8 2, pad 0 -> ids [[5, 6, 7, 8, 2]], mask [[F, F, T, T, T]]
    """
    ids_BT, _ = pad_right([row.ids for row in rows], pad_id)
    mask_BT, _ = pad_right([[0, *map(int, row.bears_loss[1:])] for row in rows], 0)
    return ids_BT, mask_BT.bool()


def response_values(
    critic: ScalarModel, prompt_rows: TokenRows, response_rows: TokenRows, pad_id: int
) -> tuple[Tensor, Tensor]:
    """(values_BR, mask_BR): the critic's value where each response token is about to be written.

    The value of token t stands at the position before it, which is the one that predicts it; 0 at padding.
    Differentiable.
    """
    device = next(critic.parameters()).device
    rows = [[*p, *r] for p, r in zip(prompt_rows, response_rows, strict=True)]
    ids_BT, _ = pad_right(rows, pad_id)
    values_BT = critic.forward_positions(ids_BT[:, :-1].to(device))
    starts_B = torch.tensor([len(prompt) - 1 for prompt in prompt_rows], device=device)
    lengths_B = torch.tensor([len(response) for response in response_rows], device=device)
    places_R = torch.arange(int(lengths_B.max()), device=device)
    mask_BR = places_R < lengths_B[:, None]
    index_BR = (starts_B[:, None] + places_R).clamp(max=values_BT.shape[1] - 1)
    return values_BT.gather(1, index_BR).masked_fill(~mask_BR, 0.0), mask_BR


def padded_numbers(rows: Sequence[Sequence[float]], width: int, device: torch.device) -> Tensor:
    """numbers_BR in float32, 0 at padding: [[0.5], [1, 2]], width 3 -> [[0.5, 0, 0], [1, 2, 0]]."""
    padded = [[*row, *[0.0] * (width - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.float32, device=device)
