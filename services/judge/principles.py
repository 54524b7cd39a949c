"""Which principles judge an item: those with the text that is needed, one drawn by weight or all of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from services.errors import FieldError, PreconditionError
from services.judge.constitution import Constitution, Principle
from services.judge.records import Prompt


class Choice(Enum):
    """How many principles judge one item."""

    SAMPLED = "sampled"
    ENSEMBLE = "ensemble"


@dataclass(frozen=True)
class Selection:
    """Which principles may judge; none of `names` and `tags` leaves all."""

    choice: Choice = Choice.SAMPLED
    names: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    seed: int = 0


def text_sha256(text: str) -> str:
    """SHA-256 (hex) of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()


def prompt_sha256(prompt: Prompt) -> str:
    """Of a text as it stands, of messages as [["user","hi"]]: JSON without spaces, ASCII or not."""
    if isinstance(prompt, str):
        return text_sha256(prompt)
    turns = [[turn["role"], turn["content"]] for turn in prompt]
    return text_sha256(json.dumps(turns, ensure_ascii=False, separators=(",", ":")))


def eligible(constitution: Constitution, selection: Selection, purpose: str) -> list[Principle]:
    """The principles that the selection leaves and that have a text for `purpose`, in the file's order.

    Raises FieldError for an unknown name, PreconditionError("no_principle") where none is left.
    """
    known = {principle.name for principle in constitution.principles}
    for index, name in enumerate(selection.names):
        if name not in known:
            limit = f"must be one of {', '.join(sorted(known))}"
            raise FieldError(f"principles.names[{index}]", name, limit)
    left = [
        principle
        for principle in constitution.principles
        if (not selection.names or principle.name in selection.names)
        and (not selection.tags or set(selection.tags) & set(principle.tags))
        and principle.text(purpose)
    ]
    if not left:
        message = (
            f"constitution {constitution.name!r} has no principle with a text for {purpose}, "
            f"of names {list(selection.names) or 'whatever'} and tags {list(selection.tags) or 'whatever'}"
        )
        raise PreconditionError("no_principle", message)
    return left


def drawn(pool: Sequence[Principle], seed: int, purpose: str, hashes: Sequence[str]) -> Principle:
    """One principle, by weight. Seed, purpose and the hashes of what is judged decide, in any order.

    Nothing else does: neither the call's other items nor the replica, so that a verdict can be asked again.
    """
    key = "\n".join([str(seed), purpose, *sorted(hashes)])
    uniform = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    threshold = uniform * sum(principle.weight for principle in pool)
    below = 0.0
    for principle in pool:
        below += principle.weight
        if threshold < below:
            return principle
    return pool[-1]  # rounding left the sum a hair below the threshold


def chosen(
    pool: Sequence[Principle], selection: Selection, purpose: str, hashes: Sequence[str]
) -> list[Principle]:
    """All of the pool for an ensemble, else the one that is drawn."""
    if selection.choice is Choice.ENSEMBLE:
        return list(pool)
    return [drawn(pool, selection.seed, purpose, hashes)]
