"""Prompts as the wire carries them, from the rows of a prompts file."""

from dataclasses import dataclass
from typing import Any

from trueline.v1 import reward_pb2, trainer_pb2, types_pb2

Row = dict[str, Any]  # {"prompt_id": "p1", "messages": [{"role": "user", "content": "..."}]} or with "text"


@dataclass(frozen=True)
class Asked:
    """A prompt to be answered, and the index of its first answer: one that was answered before goes on."""

    row: Row
    first_sample: int = 0


ROLES = {
    "system": types_pb2.ROLE_SYSTEM,
    "user": types_pb2.ROLE_USER,
    "assistant": types_pb2.ROLE_ASSISTANT,
}


def conversation(messages: list[dict[str, str]]) -> types_pb2.Conversation:
    """Messages as a Conversation."""
    turns = [types_pb2.Message(role=ROLES[each["role"]], content=each["content"]) for each in messages]
    return types_pb2.Conversation(messages=turns)


def prompt_message(row: Row) -> types_pb2.Prompt:
    """A prompt for the policy."""
    if "messages" in row:
        return types_pb2.Prompt(prompt_id=row["prompt_id"], conversation=conversation(row["messages"]))
    return types_pb2.Prompt(prompt_id=row["prompt_id"], text=row["text"])


def score_item(row: Row, response: str) -> reward_pb2.ScoreItem:
    """A prompt and a response for the reward service."""
    if "messages" in row:
        return reward_pb2.ScoreItem(conversation=conversation(row["messages"]), response=response)
    return reward_pb2.ScoreItem(text=row["text"], response=response)


def answered_prompt(row: Row, response: str) -> trainer_pb2.AnsweredPrompt:
    """A prompt and a response for the reward model in training."""
    if "messages" in row:
        return trainer_pb2.AnsweredPrompt(conversation=conversation(row["messages"]), response=response)
    return trainer_pb2.AnsweredPrompt(text=row["text"], response=response)


def comparison_group(
    row: Row, responses: list[str], preferences: list[list[float]]
) -> trainer_pb2.ComparisonGroup:
    """A prompt, its responses and their comparisons: [0, 2, 1.0] says that response 0 beats response 2."""
    group = trainer_pb2.ComparisonGroup(prompt_id=row["prompt_id"], responses=responses)
    if "messages" in row:
        group.conversation.CopyFrom(conversation(row["messages"]))
    else:
        group.text = row["text"]
    for first, second, probability in preferences:
        group.preferences.add(first=int(first), second=int(second), probability=probability)
    return group


def as_text(row: Row) -> str:
    """A prompt as a person reads it."""
    if "messages" in row:
        return "\n".join(f"{each['role']}: {each['content']}" for each in row["messages"])
    return str(row["text"])
