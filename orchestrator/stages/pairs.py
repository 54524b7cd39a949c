"""Which responses of a round are compared, and the comparisons as the trainer reads them."""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.labelling import Outcome, Pair
from orchestrator.prompts import Row
from orchestrator.sampling import cut, values
from trueline.v1 import trainer_pb2, types_pb2

Places = list[tuple[int, int]]  # pairs of one prompt's responses, by their places


@dataclass(frozen=True)
class SampledPair(Pair):
    """A pair with the rollouts that its texts come from."""

    rollouts: tuple[types_pb2.Rollout, types_pb2.Rollout]

    def as_message(self, outcome: Outcome) -> trainer_pb2.PreferencePair:
        """The pair as the trainer reads it, with its label or the reason why there is none."""
        sampled = trainer_pb2.SampledPair(first=self.rollouts[0], second=self.rollouts[1])
        made = trainer_pb2.PreferencePair(prompt_id=self.row["prompt_id"], sampled=sampled)
        if outcome.probability is None:
            made.error.reason, made.error.message = outcome.reason, outcome.message
        else:
            made.probability = outcome.probability
        return made


def pairs_of(
    rows: Sequence[Row], rollouts: Sequence[types_pb2.Rollout], samples: int, count: int, *, scored: bool
) -> list[SampledPair]:
    """Up to `count` pairs of each prompt, whose `samples` rollouts stand together; none of equal texts.

    `scored`: by their scores, the best against the worst; else first those that share no response.
    """
    pairs = []
    order = pairings(samples)
    for row, answers in zip(rows[::samples], cut(rollouts, samples), strict=True):
        places = best_against_worst(answers) if scored else order
        differ = [(i, j) for i, j in places if answers[i].response_text != answers[j].response_text]
        pairs += [sampled_pair(row, answers[i], answers[j]) for i, j in differ[:count]]
    return pairs


def sampled_pair(row: Row, first: types_pb2.Rollout, second: types_pb2.Rollout) -> SampledPair:
    """Named by prompt and sample, which are the same whatever else the round holds."""
    key = (row["prompt_id"], first.sample_index, second.sample_index)
    texts = first.response_text, second.response_text
    return SampledPair(f"{key[0]}/{key[1]}-{key[2]}", row, *texts, key, (first, second))


def best_against_worst(answers: Sequence[types_pb2.Rollout]) -> Places:
    """The best with the worst, the second with the last but one, and so on, by normalised score.

    A response without a score stands last, so that its pair is asked for and counts as missing.
    """
    scores = values([each.score for each in answers], normalised=True)
    ranked = sorted(range(len(answers)), key=lambda i: (scores[i] is None, -(scores[i] or 0.0)))
    half = len(ranked) // 2
    return list(zip(ranked[:half], reversed(ranked[-half:]), strict=True))


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
