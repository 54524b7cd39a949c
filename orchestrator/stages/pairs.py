"""Pairs of responses to one prompt: which are made, and who says which is better."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.prompts import Row
from orchestrator.recipe_labels import SimulatedLabel
from orchestrator.run import Run
from orchestrator.sampling import cut, score, values
from orchestrator.seeds import derive
from orchestrator.stages.collect import sigmoid
from trueline.v1 import trainer_pb2, types_pb2


@dataclass(frozen=True)
class Label:
    """How likely the first of a pair is the better one, or why nobody says."""

    probability: float | None
    reason: str = ""
    message: str = ""


@dataclass(frozen=True)
class Pair:
    """Two different responses to one prompt."""

    row: Row
    first: types_pb2.Rollout
    second: types_pb2.Rollout

    def as_message(self, label: Label) -> trainer_pb2.PreferencePair:
        """The pair as the trainer reads it."""
        sampled = trainer_pb2.SampledPair(first=self.first, second=self.second)
        made = trainer_pb2.PreferencePair(prompt_id=self.row["prompt_id"], sampled=sampled)
        if label.probability is None:
            made.error.reason, made.error.message = label.reason, label.message
        else:
            made.probability = label.probability
        return made


def pairs_of(
    rows: Sequence[Row], rollouts: Sequence[types_pb2.Rollout], samples: int, count: int
) -> list[Pair]:
    """Up to `count` pairs of each prompt, whose `samples` rollouts stand together; none of equal texts."""
    pairs = []
    order = pairings(samples)
    for row, answers in zip(rows[::samples], cut(rollouts, samples), strict=True):
        differ = [(i, j) for i, j in order if answers[i].response_text != answers[j].response_text]
        pairs += [Pair(row, answers[i], answers[j]) for i, j in differ[:count]]
    return pairs


def pairings(count: int) -> list[tuple[int, int]]:
    """Every pair of 0 to count - 1; those that share no number come first (the circle method).

    pairings(4)    [(0, 3), (1, 2), (0, 2), (3, 1), (0, 1), (2, 3)]
    """
    places = [*range(count), *([-1] if count % 2 else [])]
    half, found = len(places) // 2, []
    for _ in range(len(places) - 1):
        around = zip(places[:half], reversed(places[half:]), strict=True)
        found += [(one, other) for one, other in around if -1 not in (one, other)]
        places = [places[0], places[-1], *places[1:-1]]
    return found


async def label_pairs(run: Run, label: SimulatedLabel, pairs: Sequence[Pair], seed: int) -> list[Label]:
    """A label for each pair, in order: drawn from scores with Bradley-Terry noise."""
    labels = []
    for part in cut(pairs, 256):
        rows = [pair.row for pair in part for _ in range(2)]
        texts = [side.response_text for pair in part for side in (pair.first, pair.second)]
        scores = values(await score(run, label.scorer, rows, texts))
        for pair, (one, other) in zip(part, cut(scores, 2), strict=True):
            if one is None or other is None:
                labels.append(Label(None, "unscored", f"{label.scorer} gave no score"))
                continue
            names = [pair.row["prompt_id"], pair.first.sample_index, pair.second.sample_index]
            draw = random.Random(derive(seed, "label", *names)).random()
            labels.append(Label(float(draw < sigmoid(label.scale * (one - other)))))
    return labels
