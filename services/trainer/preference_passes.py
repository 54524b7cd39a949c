"""Forward passes over pairs: log-probs of policy and reference, and KTO's mismatched ones.

Shapes: P pairs, B = 2P rows (the better responses, then the others in the same order), R response tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from services.errors import FieldError
from services.models import LoadedCausal
from services.sequences import pad_right, response_logprobs
from services.trainer.batches import padded_numbers
from services.trainer.device import Compute
from services.trainer.preference_door import FIELD
from services.trainer.preference_records import Side, TrainingPair
from services.trainer.rounds import MicroBatch, Minibatch
from services.weights import ModelVersion

Row = tuple[list[int], Side]  # a prompt and a response to it, or not to it
Numbers = list[float]
Found = TypeVar("Found")


@dataclass(frozen=True)
class Frozen:
    """The reference that the trainer holds; no gradient ever reaches it."""

    loaded: LoadedCausal
    version: ModelVersion


@dataclass(frozen=True)
class Passes:
    """How a stage computes log-probs."""

    compute: Compute
    temperature: float

    def logprobs(self, loaded: LoadedCausal, rows: Sequence[Row]) -> Tensor:
        """logprobs_BR of the responses; 0 at padding."""
        prompts, responses = [prompt for prompt, _ in rows], [side.ids for _, side in rows]
        with self.compute.precision():
            found_BR, _ = response_logprobs(loaded.model, prompts, responses, self.temperature, loaded.pad_id)
        return found_BR

    @torch.no_grad()
    def numbers(self, loaded: LoadedCausal, rows: Sequence[Row]) -> list[Numbers]:
        """The same as lists, a number per response id, without a gradient."""
        found_BR = self.logprobs(loaded, rows).tolist()
        return [row[: len(side.ids)] for row, (_, side) in zip(found_BR, rows, strict=True)]

    def each(self, work: Callable[[MicroBatch], Found], parts: Sequence[MicroBatch]) -> list[Found]:
        """The work of every part, in order: plain data, dealt out to ranks or to two threads."""
        ranks = self.compute.ranks
        if ranks.size > 1:
            dealt = ranks.dealt(list(enumerate(parts)))
            done = [(number, work(part), counts) for (number, part), counts in dealt]
            mine = {number: result for number, result, counts in done if counts}
            return list(ranks.merged(mine).values())

        def half(mine: Sequence[MicroBatch]) -> list[Found]:
            return [work(part) for part in mine]

        found: list[list[Found]] = list(
            self.compute.both(lambda: half(parts[::2]), lambda: half(parts[1::2]))
        )
        return [found[place % 2][place // 2] for place in range(len(parts))]


@dataclass(frozen=True)
class PreparedPairs:
    """The pairs of a step with all that does not change while it trains."""

    pairs: list[TrainingPair]
    references: list[tuple[Numbers, Numbers]]  # of chosen and rejected; empty where the loss has none
    partners: list[int]  # whose responses each prompt is mismatched with; empty where the loss needs none
    mismatched: list[tuple[Numbers, Numbers]]  # the reference's log-probs of these

    def rows(self, chosen: Sequence[int]) -> list[Row]:
        """B rows of some pairs."""
        pairs = [self.pairs[i] for i in chosen]
        return [(p.prompt, p.chosen) for p in pairs] + [(p.prompt, p.rejected) for p in pairs]

    def mismatched_rows(self, chosen: Sequence[int]) -> list[Row]:
        """B rows of some pairs' prompts with the responses of their partners."""
        prompts = [self.pairs[i].prompt for i in chosen]
        others = [self.pairs[self.partners[i]] for i in chosen]
        chosen_rows = [(prompt, other.chosen) for prompt, other in zip(prompts, others, strict=True)]
        return chosen_rows + [(prompt, p.rejected) for prompt, p in zip(prompts, others, strict=True)]

    def weight_of(self, minibatch: Minibatch) -> float:
        """Sum of a minibatch's weights: what the losses of its micro-batches are divided by."""
        return sum(self.pairs[i].weight for chosen in minibatch for i in chosen)


def prepare(
    pairs: list[TrainingPair],
    parts: Sequence[MicroBatch],
    passes: Passes,
    frozen: Frozen | None,
    *,
    compares: bool,
    mismatches: bool,
    context_length: int,
) -> PreparedPairs:
    """Reference log-probs of all pairs: those that came with the batch, the frozen copy's for the others.

    `parts` are the micro-batches of the first pass: the frozen copy reads the rows in these, so that a
    policy that is its reference has the very same log-probs (a row's last bit may depend on the others).
    `compares` says whether the loss has a reference, `mismatches` whether it is KTO. Raises FieldError for
    a pair that KTO has no partner for.
    """
    if not compares:
        return PreparedPairs(pairs, [], [], [])
    partners: list[int] = []
    for partner in partners_of(pairs, context_length) if mismatches else []:
        if partner is None:
            limit = "kto needs for each prompt a pair of another prompt, whose responses fit the context too"
            raise FieldError(FIELD, f"{len(pairs)} pairs", limit)
        partners.append(partner)
    bare = PreparedPairs(pairs, [], partners, [])

    # Of the whole batch, not of a part: with several ranks all have to make as many passes.
    complete = all(side.reference_logprobs for pair in pairs for side in pair.sides)

    def references(part: MicroBatch) -> list[Numbers]:
        given = [side.reference_logprobs for _, side in bare.rows(part)]
        if complete:
            return given
        assert frozen is not None  # the door saw to it
        computed = passes.numbers(frozen.loaded, bare.rows(part))
        return [one or other for one, other in zip(given, computed, strict=True)]

    def mismatched(part: MicroBatch) -> list[Numbers]:
        assert frozen is not None
        return passes.numbers(frozen.loaded, bare.mismatched_rows(part))

    found = _by_pair(parts, passes.each(references, parts), len(pairs))
    beside = _by_pair(parts, passes.each(mismatched, parts), len(pairs)) if mismatches else []
    return PreparedPairs(pairs, found, partners, beside)


def _by_pair(
    parts: Sequence[MicroBatch], found: Sequence[list[Numbers]], count: int
) -> list[tuple[Numbers, Numbers]]:
    """From B rows of each part to (chosen, rejected) of each pair."""
    pairs: list[tuple[Numbers, Numbers]] = [([], [])] * count
    for part, rows in zip(parts, found, strict=True):
        for place, index in enumerate(part):
            pairs[index] = rows[place], rows[place + len(part)]
    return pairs


def partners_of(pairs: Sequence[TrainingPair], context_length: int) -> list[int | None]:
    """For each pair the next one, around the end, with another prompt and responses that fit behind this one.

    Fixed before minibatches are drawn, so that a minibatch of one pair has a mismatch too. None for a pair
    without one.
    """
    partners: list[int | None] = []
    for index, pair in enumerate(pairs):
        room = context_length - len(pair.prompt)
        others = ((index + step) % len(pairs) for step in range(1, len(pairs)))
        partners.append(next((i for i in others if _mismatches(pair, pairs[i], room)), None))
    return partners


def _mismatches(pair: TrainingPair, other: TrainingPair, room: int) -> bool:
    return pair.prompt != other.prompt and all(len(side.ids) <= room for side in other.sides)


def masked_sums(
    logprobs_BR: Tensor, numbers: Sequence[Numbers], rows: Sequence[Row]
) -> tuple[Tensor, Tensor, Tensor]:
    """(policy_BR, reference_BR, bears_BR): log-probs where a token bears loss, 0 elsewhere, in float64.

    Sums of hundreds of log-probs are subtracted from each other: float64 keeps what float32 would lose.
    """
    width, device = logprobs_BR.shape[1], logprobs_BR.device
    bears_BR, _ = pad_right([[int(bears) for bears in side.bears_loss] for _, side in rows], 0)
    bears_BR = bears_BR.bool().to(device)
    reference_BR = padded_numbers(numbers or [[0.0]] * len(rows), width, device)
    policy_BR = logprobs_BR.double().masked_fill(~bears_BR, 0.0)
    return policy_BR, reference_BR.double().masked_fill(~bears_BR, 0.0), bears_BR
