"""A key-value cache with its room set aside: transformers' own copies all of it for every token.

On a 0.7M-parameter model with 256 rows the copies were half of the time of a step.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class RoomyLayer(DynamicLayer):
    """A DynamicLayer for at most `capacity` tokens; keys and values are views of what is filled."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self._capacity = capacity
        self._filled = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Sets the room aside, on the first update."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self._key_room, self._value_room = (
            torch.empty(
                *states.shape[:-2], self._capacity, states.shape[-1], dtype=self.dtype, device=self.device
            )
            for states in (key_states, value_states)
        )
        self._show()
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Writes the new states behind the others; gives all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self._filled + key_states.shape[-2]
        self._key_room[..., self._filled : end, :] = key_states
        self._value_room[..., self._filled : end, :] = value_states
        self._filled = end
        return self._show()

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps these rows of the batch."""
        self._key_room, self._value_room = self._key_room[indices], self._value_room[indices]
        self._show()

    def _show(self) -> tuple[Tensor, Tensor]:
        self.keys = self._key_room[..., : self._filled, :]
        self.values = self._value_room[..., : self._filled, :]
        return self.keys, self.values


def roomy_cache(config: Any, capacity: int) -> DynamicCache:
    """A cache for a model of this config; layers of another kind than full attention stay as they are."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer(capacity) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
