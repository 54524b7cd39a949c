"""Stop texts, found in tokens as they are drawn.

A response's text has no special tokens, but a stop text may hold one ("<|im_end|>"). Such a stop is sought
in the text with them, every other in the text without.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# A stop text of n bytes lies within its last n tokens; a few more keep broken characters out of its way.
_MARGIN_TOKENS = 8


def special_texts(tokenizer: Any) -> frozenset[str]:
    """The texts of all tokens that decoding without special tokens leaves out."""
    added = {each.content for each in tokenizer.added_tokens_decoder.values() if each.special}
    return frozenset(added.union(tokenizer.all_special_tokens) - {""})


def holds_special(stop: str, special: frozenset[str]) -> bool:
    """Whether a stop text can only be found beside the special tokens."""
    return any(text in stop for text in special)


class Stops:
    """The stop texts of one call; `Stops(tokenizer, ["###", "<|im_end|>"]).ended(rows)` -> [False, True]."""

    def __init__(self, tokenizer: Any, stop: Sequence[str]) -> None:
        special = special_texts(tokenizer) if stop else frozenset()
        self._tokenizer = tokenizer
        self._special = [text for text in stop if holds_special(text, special)]
        self._plain = [text for text in stop if text not in self._special]
        self.reach = max((len(text.encode()) for text in stop), default=0) + _MARGIN_TOKENS

    def __bool__(self) -> bool:
        return bool(self._special or self._plain)

    def ended(self, rows: Sequence[Sequence[int]]) -> list[bool]:
        """Which rows of ids hold a stop text. Of rows that grow, their last `reach` ids are enough."""
        found = [False for _ in rows]
        for stop, skipped in ((self._plain, True), (self._special, False)):
            if stop and rows:  # batch_decode takes an empty list for one empty text
                texts = self._tokenizer.batch_decode(rows, skip_special_tokens=skipped)
                found = [
                    was or any(each in text for each in stop) for was, text in zip(found, texts, strict=True)
                ]
        return found
