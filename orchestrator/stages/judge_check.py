"""Asks the judge about pairs whose answer is known: how often is it right, and how often does it abstain?

    {"messages": [...], "chosen": "...", "rejected": "...", "principle": "honesty"}      one pair
    {"text": "...", "responses": ["a", "b", "c"], "ranking": [2, 0, 1]}                  three, the best first

Every pair is asked in both orders, and which response stands first is drawn from the seed. The verdicts are
kept like those of any label: a resume asks for none of them again, but for those that failed where these
were too many.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.comparison_files import ranking_pairs
from orchestrator.data import read_comparisons
from orchestrator.labelling import Outcome, Pair, label_pairs, mendable, serve_labellers
from orchestrator.recipe_judge import JudgeCheckStage
from orchestrator.run import Run
from orchestrator.seeds import derive
from orchestrator.sources import read_rows
from orchestrator.stages.collect import refuse_failures
from orchestrator.statistics import share_interval

Row = dict[str, Any]


@dataclass(frozen=True)
class Known:
    """A pair whose better response is known, and what came of asking about it."""

    principle: str
    pair: Pair
    first_is_better: bool
    outcome: Outcome

    @property
    def right(self) -> bool | None:
        """Whether the judge prefers the better response; None where it abstained."""
        if self.outcome.probability is None:
            return None
        return (self.outcome.probability > 0.5) == self.first_is_better

    def as_dict(self) -> dict[str, Any]:
        """The pair for a report."""
        sides = (self.pair.first, self.pair.second)
        better, worse = sides if self.first_is_better else sides[::-1]
        probability = self.outcome.probability
        return {
            "principle": self.principle,
            "better": better,
            "worse": worse,
            "first": sides[0],
            "p": probability,
        }


async def run_judge_check(run: Run, name: str, settings: JudgeCheckStage) -> dict[str, Any]:
    """Verdicts on all pairs, and what they come to."""
    seed = derive(run.recipe.seed, name)
    await serve_labellers(run, settings.label)
    rows = read_rows(run, read_comparisons, settings.data, settings.limit)
    by_principle: dict[str, list[tuple[Pair, bool]]] = defaultdict(list)
    for place, row in enumerate(rows):
        by_principle[row.get("principle", "")] += pairs_of(row, place, seed)
    count = sum(map(len, by_principle.values()))
    known = []
    for principle, pairs in by_principle.items():
        label = settings.label
        if principle:
            label = label.model_copy(update={"principles": [principle], "tags": []})
        outcomes = await label_pairs(run, name, 1, [pair for pair, _ in pairs], label, seed)
        known += [Known(principle, *pair, outcome) for pair, outcome in zip(pairs, outcomes, strict=True)]
        run.progress.step_done(name, len(known), count, {})

    async def produce() -> dict[str, Any]:
        pairs, outcomes = [each.pair for each in known], [each.outcome for each in known]
        with mendable(run, name, 1, pairs, outcomes):
            refuse_failures(name, outcomes, settings.max_missing_share)
        return figures(known, settings.examples)

    return await run.durable(name, 1, "asked", produce)


def pairs_of(row: Row, place: int, seed: int) -> list[tuple[Pair, bool]]:
    """The row's pair, or every pair of its ranking."""
    if "ranking" not in row:
        return [pair_of(row, place, seed)]
    texts, pairs = row["responses"], ranking_pairs([int(each) for each in row["ranking"]])
    sides = ((int(better), int(worse)) for better, worse, _ in pairs)
    return [
        pair_of({**row, "chosen": texts[i], "rejected": texts[j]}, f"{place}/{i}-{j}", seed) for i, j in sides
    ]


def pair_of(row: Row, place: int | str, seed: int) -> tuple[Pair, bool]:
    """The pair as the judge is asked, and whether its first response is the better one."""
    first_is_better = derive(seed, "side", place) % 2 == 0
    sides = (row["chosen"], row["rejected"]) if first_is_better else (row["rejected"], row["chosen"])
    prompt = {"prompt_id": f"pair-{place}", **row}
    return Pair(f"pair-{place}", prompt, *sides, key=(place,)), first_is_better


def figures(known: Sequence[Known], examples: int) -> dict[str, Any]:
    """All in all and by principle; and the first wrong answers."""
    by: dict[str, list[Known]] = defaultdict(list)
    for each in known:
        by[each.principle or "as drawn"].append(each)
    wrong = [each.as_dict() for each in known if each.right is False]
    return {
        **measured(known),
        "principles": {name: measured(by[name]) for name in sorted(by)},
        "wrong": wrong[:examples],
    }


def measured(known: Sequence[Known]) -> dict[str, Any]:
    """Accuracy over the verdicts given, with its interval; a flip is a pair on which the orders disagree."""
    given = [each.right for each in known if each.right is not None]
    reasons = Counter(each.outcome.reason for each in known if each.right is None)
    return {
        "pairs": len(known),
        "accuracy": share_interval(sum(given), len(given)).as_dict("value"),
        "flip_rate": reasons["orders_disagree"] / len(known),
        "abstained": dict(sorted(reasons.items())),
    }
