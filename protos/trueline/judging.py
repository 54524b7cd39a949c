"""From what a caller has at hand (texts, chat messages as dicts) to the items of a JudgeService call."""

from __future__ import annotations

from typing import Any

from trueline.scoring import PromptLike, conversation
from trueline.v1 import judge_pb2

# Ways to say which principles judge and how: PrincipleSelection(choice=SAMPLED, seed=7).
SAMPLED = judge_pb2.PRINCIPLE_CHOICE_SAMPLED
ENSEMBLE = judge_pb2.PRINCIPLE_CHOICE_ENSEMBLE


def comparison(prompt: PromptLike, first: str, second: str, *, item_id: str = "") -> judge_pb2.ComparisonItem:
    """A pair to compare; ValueError names the message that is wrong.

    >>> comparison("Where is my parcel?", "Let me look.", "No idea.").first
    'Let me look.'
    """
    return judge_pb2.ComparisonItem(item_id=item_id, first=first, second=second, **_prompt(prompt))


def judged(prompt: PromptLike, response: str, *, item_id: str = "") -> judge_pb2.JudgedResponse:
    """A response to score or critique; ValueError names the message that is wrong."""
    return judge_pb2.JudgedResponse(item_id=item_id, response=response, **_prompt(prompt))


def revision(
    prompt: PromptLike, response: str, critique: str = "", *, principle: str = "", item_id: str = ""
) -> judge_pb2.RevisionItem:
    """A response to write anew, by the principle that criticised it."""
    item = judged(prompt, response, item_id=item_id)
    return judge_pb2.RevisionItem(judged=item, critique=critique, principle=principle)


def _prompt(prompt: PromptLike) -> dict[str, Any]:
    if isinstance(prompt, str):
        return {"text": prompt}
    return {"conversation": conversation(prompt, "prompt")}
