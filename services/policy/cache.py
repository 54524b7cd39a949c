"""A key-value cache that grows in blocks: transformers' own copies all of it for every token.

Measured with 256 rows of a 0.7M-parameter model on one thread: 1.08 times as many tokens a second at 32 new
tokens, 1.17 times at 96. Room for the whole response from the start gives nothing: attention over strided
views of mostly empty memory takes up to twice as long.
"""

from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

_BLOCK_TOKENS = 8


class RoomyLayer(DynamicLayer):
    """A DynamicLayer with some room behind; keys and values are views of what is filled."""

    def __init__(self) -> None:
        super().__init__()
        self._filled = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Writes the new states behind the others; gives all of them."""
        end = self._filled + key_states.shape[-2]
        if not self.is_initialized:
            self.dtype, self.device = key_states.dtype, key_states.device
            self._key_room, self._value_room = _room(key_states, end), _room(value_states, end)
            self.is_initialized = True
        elif end > self._key_room.shape[-2]:
            self._key_room, self._value_room = _grown(self.keys, end), _grown(self.values, end)
        self._key_room[..., self._filled : end, :] = key_states
        self._value_room[..., self._filled : end, :] = value_states
        self._filled = end
        return self._show()

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps these rows of the batch."""
        self._key_room, self._value_room = self._key_room[indices], self._value_room[indices]
        self._show()

    def _show(self) -> tuple[Tensor, Tensor]:
        self.keys: Tensor = self._key_room[..., : self._filled, :]
        self.values: Tensor = self._value_room[..., : self._filled, :]
        return self.keys, self.values


def _room(states: Tensor, tokens: int) -> Tensor:
    """Room for `tokens` and a block more, of the states' other sizes."""
    return states.new_empty(*states.shape[:-2], tokens + _BLOCK_TOKENS, states.shape[-1])


def _grown(states: Tensor, tokens: int) -> Tensor:
    room = _room(states, tokens)
    room[..., : states.shape[-2], :] = states
    return room


def roomy_cache(config: Any) -> DynamicCache:
    """A cache for a model of this config; layers of another kind than full attention stay as they are."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
