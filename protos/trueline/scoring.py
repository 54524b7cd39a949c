"""From what a caller has at hand (pairs of text, chat messages as dicts) to the items of a ScoreRequest."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from trueline.v1 import reward_pb2, types_pb2

# A prompt as text, or as messages: [{"role": "user", "content": "Where is my parcel?"}].
PromptLike = str | Sequence[Mapping[str, str] | types_pb2.Message]
Item = tuple[PromptLike, str] | reward_pb2.ScoreItem

# A trainer computes in float32, which holds the squares of a whole batch of these and not of much more.
LARGEST_SCORE = 1e15

ROLES = {
    "system": types_pb2.ROLE_SYSTEM,
    "user": types_pb2.ROLE_USER,
    "assistant": types_pb2.ROLE_ASSISTANT,
}


def score_items(items: Iterable[Item]) -> list[reward_pb2.ScoreItem]:
    """Items for the wire; ValueError names the item and field that cannot be one.

    >>> score_items([("Where is my parcel?", "Let me look.")])[0].text
    'Where is my parcel?'
    >>> score_items([([{"role": "user", "content": "Hello"}], "Hi.")])[0].conversation.messages[0].content
    'Hello'
    """
    return [_score_item(item, f"items[{index}]") for index, item in enumerate(items)]


def trains(score: float, score_clip: float = 0.0) -> bool:
    """Whether a trainer takes a score: one that float32 can square, as it is or clipped (0 does not clip).

    >>> trains(3.5), trains(1e39), trains(1e39, score_clip=5.0), trains(float("nan"), score_clip=5.0)
    (True, False, True, False)
    """
    return math.isfinite(score) and min(abs(score), score_clip or math.inf) <= LARGEST_SCORE


def _score_item(item: Item, where: str) -> reward_pb2.ScoreItem:
    if isinstance(item, reward_pb2.ScoreItem):
        return item
    if not isinstance(item, Sequence) or isinstance(item, str) or len(item) != 2:
        raise ValueError(f"{where}: must be a (prompt, response) pair; got {item!r:.80}")
    prompt, response = item
    if not isinstance(response, str):
        raise ValueError(f"{where}.response: must be text; got {response!r:.80}")
    if isinstance(prompt, str):
        return reward_pb2.ScoreItem(text=prompt, response=response)
    return reward_pb2.ScoreItem(conversation=conversation(prompt, f"{where}.prompt"), response=response)


def conversation(
    messages: Sequence[Mapping[str, str] | types_pb2.Message], where: str = "messages"
) -> types_pb2.Conversation:
    """Chat messages for the wire; ValueError names the message and field that is wrong."""
    if not isinstance(messages, Sequence):
        raise ValueError(f"{where}: must be text or a list of messages; got {messages!r:.80}")
    return types_pb2.Conversation(
        messages=[_turn(message, f"{where}[{index}]") for index, message in enumerate(messages)]
    )


def _turn(message: Mapping[str, str] | types_pb2.Message, where: str) -> types_pb2.Message:
    if isinstance(message, types_pb2.Message):
        return message
    if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
        raise ValueError(f'{where}: must be {{"role": ..., "content": ...}}; got {message!r:.80}')
    if message["role"] not in ROLES:
        raise ValueError(f"{where}.role: must be one of {', '.join(ROLES)}; got {message['role']!r:.80}")
    if not isinstance(message["content"], str):
        raise ValueError(f"{where}.content: must be text; got {message['content']!r:.80}")
    return types_pb2.Message(role=ROLES[message["role"]], content=message["content"])
