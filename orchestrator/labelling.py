"""Labels of pairs: who says which of two responses to a prompt is better, and how sure they are.

    outcomes = await label_pairs(run, "collect", 1, pairs, settings.label, seed)

    Pair("p7/0-2", row, "we will replace it .", "no idea .", key=("p7", 0, 2))
        Outcome(probability=0.93, source="judge")                      the first is better, most likely
        Outcome(None, "orders_disagree", "...", source="judge")        an abstention: no label, and no number

What judge and people say is durable in the ledger call by call: a run that died asks nobody twice.
"""

import math
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from google.protobuf.json_format import MessageToDict

from orchestrator.judge_calls import few_at_once, items_per_call, judge_expected
from orchestrator.mending import Stopped
from orchestrator.peers import in_parallel
from orchestrator.prompts import Row, conversation
from orchestrator.recipe_labels import JudgeLabel, Label, PersonLabel, ScorerLabel, SimulatedLabel
from orchestrator.run import Run, RunError
from orchestrator.sampling import cut, score, values
from orchestrator.seeds import derive
from orchestrator.shapes import prompt_part
from trueline.v1 import judge_pb2

SCORED_AT_ONCE = 512
# Abstentions that say something of the pair: it is left out, and nobody failed.
UNDECIDED = frozenset({"tie", "orders_disagree", "identical_responses", "skipped"})


@dataclass(frozen=True)
class Pair:
    """Two responses to one prompt; `item` names the pair within its round, and `key` seeds its draws."""

    item: str
    row: Row
    first: str
    second: str
    key: tuple[Any, ...]


@dataclass(frozen=True)
class Outcome:
    """How likely the first is the better one, or why nobody says."""

    probability: float | None
    reason: str = ""
    message: str = ""
    source: str = ""
    annotator: str | None = None
    margin: float | None = None  # where scores decided: the first's less the second's

    @property
    def failed(self) -> bool:
        """True where a label should be there and is not: a missing score, an answer nobody can read."""
        return self.probability is None and self.reason not in UNDECIDED


async def label_pairs(
    run: Run, stage: str, number: int, pairs: Sequence[Pair], label: Label, seed: int, turn: int | None = None
) -> list[Outcome]:
    """An outcome for each pair, in order. Stopped where people have to label first.

    Of judges in rotation the one whose `turn` it is judges every pair; None gives each judge its own share.
    """
    if isinstance(label, SimulatedLabel):
        return await _simulated(run, pairs, label, seed)
    if isinstance(label, ScorerLabel):
        return await _by_scorer(run, pairs, label)
    await _ask(run, stage, number, pairs, label, seed, turn)
    kept = {row["item"]: row for row in run.ledger.labels_of(stage, number)}
    waiting = sum(1 for pair in pairs if kept[pair.item]["answered_at"] is None)
    if waiting:
        what = f"{waiting} pairs of {stage} {number} wait for a person"
        run.progress.note(f"{what}: python -m orchestrator label {run.name}, then resume")
        raise Stopped(what)
    return [_outcome(kept[pair.item]) for pair in pairs]


def ask_again(run: Run, stage: str, number: int, pairs: Sequence[Pair], outcomes: Sequence[Outcome]) -> None:
    """Has a resume ask again about the pairs whose labels failed, whoever mends what failed them."""
    failed = [pair.item for pair, outcome in zip(pairs, outcomes, strict=True) if outcome.failed]
    run.ledger.set_aside(stage, number, failed)


@contextmanager
def mendable(
    run: Run, stage: str, number: int, pairs: Sequence[Pair], outcomes: Sequence[Outcome]
) -> Iterator[None]:
    """Around what refuses outcomes by a RunError: a resume then asks again about those that failed."""
    try:
        yield
    except RunError:
        ask_again(run, stage, number, pairs, outcomes)
        raise


async def serve_labellers(run: Run, label: Label) -> None:
    """Brings whoever labels to its newest version."""
    if isinstance(label, JudgeLabel):
        await in_parallel([run.serve_judge(), run.serve_scorers(label.gold_scorer)])
    elif not isinstance(label, PersonLabel):
        await run.serve_scorers(label.scorer)


def _outcome(row: Row) -> Outcome:
    if row["probability"] is None:
        return Outcome(None, row["reason"] or "", row["message"] or "", row["source"], row["annotator"])
    return Outcome(row["probability"], source=row["source"], annotator=row["annotator"])


async def _simulated(run: Run, pairs: Sequence[Pair], label: SimulatedLabel, seed: int) -> list[Outcome]:
    """Bradley-Terry noise over a scorer's raw scores: P(first) = sigmoid(scale x (first - second))."""
    outcomes = []
    source = f"simulated:{label.scorer}"
    for pair, (first, second) in zip(pairs, await _scores(run, label.scorer, pairs), strict=True):
        if first is None or second is None:
            outcomes.append(Outcome(None, "unscored", f"{label.scorer} gave no score", source))
            continue
        draw = random.Random(derive(seed, "label", *pair.key)).random()
        first_wins = draw < sigmoid(label.scale * (first - second))
        outcomes.append(Outcome(1.0 if first_wins else 0.0, source=source, margin=first - second))
    return outcomes


async def _by_scorer(run: Run, pairs: Sequence[Pair], label: ScorerLabel) -> list[Outcome]:
    """The higher normalised score wins by more than the margin, or it is a tie."""
    scores = await _scores(run, label.scorer, pairs, normalised=True)
    return [by_scores(first, second, label) for first, second in scores]


def by_scores(first: float | None, second: float | None, label: ScorerLabel) -> Outcome:
    """What two normalised scores say of their responses."""
    source = f"scorer:{label.scorer}"
    if first is None or second is None:
        return Outcome(None, "unscored", f"{label.scorer} gave no score", source)
    if abs(first - second) <= label.min_margin:
        return Outcome(None, "tie", "the scores are too near each other", source)
    return Outcome(float(first > second), source=source, margin=first - second)


async def _scores(
    run: Run, scorer: str, pairs: Sequence[Pair], normalised: bool = False
) -> list[tuple[float | None, float | None]]:
    """Both responses' scores; a response that stands in several pairs is scored once."""
    asked = {(pair.row["prompt_id"], text): pair.row for pair in pairs for text in (pair.first, pair.second)}
    found: dict[tuple[str, str], float | None] = {}
    for part in cut(list(asked.items()), SCORED_AT_ONCE):
        scores = await score(run, scorer, [row for _, row in part], [text for (_, text), _ in part])
        found.update(zip((key for key, _ in part), values(scores, normalised=normalised), strict=True))
    return [
        (found[pair.row["prompt_id"], pair.first], found[pair.row["prompt_id"], pair.second])
        for pair in pairs
    ]


async def _ask(
    run: Run,
    stage: str,
    number: int,
    pairs: Sequence[Pair],
    label: JudgeLabel | PersonLabel,
    seed: int,
    turn: int | None,
) -> None:
    """Asks judge and people about the pairs that the ledger has no row of, call by call."""
    known = {row["item"] for row in run.ledger.labels_of(stage, number)}
    new = [pair for pair in pairs if pair.item not in known]
    share = label.person_share if isinstance(label, JudgeLabel) else 1.0
    for_people = [pair for pair in new if random.Random(derive(seed, "person", *pair.key)).random() < share]
    if for_people:
        run.ledger.add_labels(stage, number, [_question(pair, "person") for pair in for_people])
    if isinstance(label, PersonLabel):
        return
    theirs = {pair.item for pair in for_people}
    free = few_at_once(run)

    async def ask(part: Sequence[Pair], expected: dict[str, Any]) -> None:
        async with free:
            run.may_stop(f"{stage} {number} asks the judge again")
            request = compare_request(part, label, seed, expected)
            run.ledger.add_labels(stage, number, await _judged(run, part, label, request))

    judges, left = len(run.recipe.services.judge.judges), [pair for pair in new if pair.item not in theirs]
    for place, of_judge in by_turn(left, judges, turn, seed) if left else ():
        if judges > 1:
            await run.serve_judge(place)
        expected = await judge_expected(run, stage, run.judge, place)
        at_most = await items_per_call(run, label, "compare")
        await in_parallel(ask(part, expected) for part in cut(of_judge, at_most))


def by_turn(pairs: Sequence[Pair], judges: int, turn: int | None, seed: int) -> list[tuple[int, list[Pair]]]:
    """(which judge, its pairs): one for all where it is its turn, else drawn pair by pair, however often a
    run dies in between."""
    if turn is not None or judges < 2:
        return [(turn or 0, list(pairs))]
    shares: dict[int, list[Pair]] = {place: [] for place in range(judges)}
    for pair in pairs:
        shares[derive(seed, "judge", *pair.key) % judges].append(pair)
    return [(place, share) for place, share in shares.items() if share]


def _question(pair: Pair, source: str) -> Row:
    """A pair's row before anybody has answered."""
    return {
        "item": pair.item,
        "source": source,
        "prompt": prompt_part(pair.row),
        "first": pair.first,
        "second": pair.second,
    }


async def _judged(
    run: Run, pairs: Sequence[Pair], label: JudgeLabel, request: judge_pb2.CompareRequest
) -> list[Row]:
    """The rows of one call: verdicts or abstentions, with all that a replay and an audit need."""
    reply, margins = await in_parallel(
        [
            run.ask("judge", lambda: run.peers.judge.compare(request, deadline=run.deadline)),
            score_margins(run, pairs, label.gold_scorer),
        ]
    )
    run.time.computed(reply.timing)
    question = MessageToDict(request, preserving_proto_field_name=True)
    question.pop("items")
    by_whom = {
        "judge": MessageToDict(reply.judge, preserving_proto_field_name=True),
        "constitution_sha256": reply.constitution_sha256,
    }
    rows = []
    for pair, verdict, margin in zip(pairs, reply.verdicts, margins, strict=True):
        said = {**by_whom, "verdict": MessageToDict(verdict, preserving_proto_field_name=True)}
        answer = {"question": question, "verdict": said, "gold_margin": margin, "answered_at": time.time()}
        rows.append({**_question(pair, "judge"), **answer, **as_answer(verdict)})
    return rows


def compare_request(
    pairs: Sequence[Pair], label: JudgeLabel, seed: int, expected: dict[str, Any]
) -> judge_pb2.CompareRequest:
    """The question about some pairs, to the judge that is expected."""
    choice = f"PRINCIPLE_CHOICE_{label.choice.upper()}"
    selection = judge_pb2.PrincipleSelection(
        choice=choice, names=label.principles, tags=label.tags, seed=derive(seed, "principle")
    )
    reading = judge_pb2.ReadingRules(
        min_option_mass=label.min_option_mass,
        tie_band=label.tie_band,
        disagreement_tolerance=label.disagreement_tolerance,
        chain_of_thought=label.chain_of_thought,
    )
    sampling = judge_pb2.JudgeSampling(max_new_tokens=label.reasoning_tokens, seed=derive(seed, "reasoning"))
    items = [comparison_item(pair.item, pair.row, pair.first, pair.second) for pair in pairs]
    return judge_pb2.CompareRequest(
        items=items, principles=selection, reading=reading, reasoning=sampling, **expected
    )


def comparison_item(item: str, row: Row, first: str, second: str) -> judge_pb2.ComparisonItem:
    """A pair as the judge reads it."""
    made = judge_pb2.ComparisonItem(item_id=item, first=first, second=second)
    if "messages" in row:
        made.conversation.CopyFrom(conversation(row["messages"]))
    else:
        made.text = row["text"]
    return made


def as_answer(verdict: judge_pb2.Verdict) -> dict[str, Any]:
    """What a verdict says of its pair: a probability, or why there is none. Never both."""
    if verdict.WhichOneof("outcome") == "probability" and math.isfinite(verdict.probability):
        return {"probability": verdict.probability}
    return {"reason": reason_of(verdict.abstention), "message": verdict.abstention.message}


def reason_of(abstention: judge_pb2.Abstention) -> str:
    """ABSTENTION_REASON_TIMED_OUT is "timed_out"."""
    name = judge_pb2.AbstentionReason.Name(abstention.reason)
    return name.removeprefix("ABSTENTION_REASON_").lower()


async def score_margins(
    run: Run, pairs: Sequence[Pair], scorer: str | None, normalised: bool = False
) -> list[float | None]:
    """The first's score less the second's, for each pair; None where one is missing, or nobody scores.

    Raw scores, or normalised ones: those that train, and that may order a pair otherwise where length counts.
    """
    if scorer is None:
        return [None] * len(pairs)
    scores = await _scores(run, scorer, pairs, normalised)
    return [None if one is None or other is None else one - other for one, other in scores]


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
