"""What the judge says: which of two answers is better, and how good each is by each principle."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from orchestrator.evaluation.pairs import TIES, figures_of_pairs
from orchestrator.judge_calls import few_at_once, items_per_call, judge_expected
from orchestrator.labelling import Outcome, Pair, label_pairs
from orchestrator.payloads import Payload, read_payload, write_payload
from orchestrator.peers import in_parallel
from orchestrator.prompts import Row, conversation
from orchestrator.recipe_evaluation import AssessStage
from orchestrator.recipe_labels import JudgeLabel
from orchestrator.run import Run
from orchestrator.sampling import cut, rollouts_path
from orchestrator.seeds import derive
from orchestrator.stages.evaluate import Measured
from orchestrator.statistics import mean_interval
from trueline.v1 import judge_pb2

Answered = tuple[Row, str]


async def compare_by_judge(run: Run, name: str, settings: AssessStage, found: Measured) -> dict[str, Any]:
    """Win rate of after over before by the judge, asked in both orders; the ledger keeps every verdict."""
    if settings.judge is None:
        return {}
    await run.serve_judge()
    sides = found.sampled["before"], found.sampled["after"]
    pairs = [
        Pair(row["prompt_id"], row, before.response_text, after.response_text, (row["prompt_id"],))
        for row, before, after in zip(found.prompts, *sides, strict=True)
    ]
    seed = derive(run.recipe.seed, name, "judge")
    said = await label_pairs(run, name, 1, pairs, settings.judge, seed)
    run.progress.note(f"{name}: judged {len(pairs)} pairs")
    return {
        **figures_of_pairs([outcome_of(each) for each in said], *sides),
        "soft_rate": mean_interval([1 - p for each in said if (p := each.probability) is not None]).as_dict(),
        "abstentions": dict(Counter(each.reason for each in said if each.probability is None)),
    }


def outcome_of(said: Outcome) -> float | None:
    """1 where after is better, 0 where before is, 0.5 for a tie; None where the judge abstains."""
    if said.probability is None:
        return 0.5 if said.reason in TIES else None
    return 0.5 if said.probability == 0.5 else float(said.probability < 0.5)


async def principle_scores(run: Run, name: str, settings: AssessStage, found: Measured) -> dict[str, Any]:
    """By model and principle: the mean of the judge's scores from 1 to 10; abstentions are counted."""
    if settings.judge is None or not settings.judge_scores:
        return {}
    by_model = {}
    for role, model in (("before", settings.before), ("after", settings.after)):
        answers = [
            (row, each.response_text) for row, each in zip(found.prompts, found.sampled[role], strict=True)
        ]
        scores = await ask_scores(run, name, f"{role}-judge-score", settings.judge, answers)
        by_model[model] = by_principle(scores)
    return by_model


async def ask_scores(
    run: Run, name: str, phase: str, label: JudgeLabel, answers: Sequence[Answered]
) -> list[judge_pb2.JudgeScore]:
    """The judge's score of each answer by all principles that were asked for; durable part by part.

    A part is what the recipe says, so that a resume finds it; its calls are as small as they have to be.
    """
    expected = await judge_expected(run, name, await run.serve_judge())
    free, at_most = few_at_once(run), await items_per_call(run, label, "score")
    names, tags = label.principles, label.tags
    choice = judge_pb2.PRINCIPLE_CHOICE_ENSEMBLE
    selection = judge_pb2.PrincipleSelection(choice=choice, names=names, tags=tags)

    async def asked(answers: Sequence[Answered]) -> judge_pb2.JudgeServiceScoreResponse:
        request = judge_pb2.JudgeServiceScoreRequest(
            items=[judged_response(row, text) for row, text in answers],
            principles=selection,
            min_option_mass=label.min_option_mass,
            **expected,
        )
        async with free:
            run.may_stop(f"{name} {phase}")
            reply = await run.ask("judge", partial(run.peers.judge.score, request, deadline=run.deadline))
        run.time.computed(reply.timing)
        return reply

    async def one(index: int, part: Sequence[Answered]) -> list[judge_pb2.JudgeScore]:
        async def produce() -> dict[str, Any]:
            reply = judge_pb2.JudgeServiceScoreResponse()
            for answers in cut(part, at_most):
                reply.MergeFrom(await asked(answers))
            return write_payload(rollouts_path(run, name, 1) / f"{phase}-{index}.pb", reply).as_row()

        payload = Payload(**await run.durable(name, 1, f"{phase}-{index}", produce))
        return list(read_payload(payload, judge_pb2.JudgeServiceScoreResponse).scores)

    parts = cut(list(answers), label.pairs_per_call)
    scored = await in_parallel(one(index, part) for index, part in enumerate(parts))
    return [each for part in scored for each in part]


def judged_response(row: Row, response: str) -> judge_pb2.JudgedResponse:
    """An answer as the judge reads it."""
    made = judge_pb2.JudgedResponse(item_id=row["prompt_id"], response=response)
    if "messages" in row:
        made.conversation.CopyFrom(conversation(row["messages"]))
    else:
        made.text = row["text"]
    return made


def by_principle(scores: Sequence[judge_pb2.JudgeScore]) -> dict[str, Any]:
    """{"honest": {"mean": 7.2, "low": 6.9, "high": 7.5, "n": 128, "abstained": 2}, ...}

    Principles of which an item was never asked, since its text is empty, are counted under "unread".
    """
    readings = [reading for score in scores for reading in score.readings]
    found: dict[str, Any] = {}
    for principle in sorted({each.principle for each in readings}):
        own = [each for each in readings if each.principle == principle]
        values = [each.value for each in own if each.WhichOneof("outcome") == "value"]
        found[principle] = {**mean_interval(values).as_dict(), "abstained": len(own) - len(values)}
    unread = sum(not score.readings for score in scores)
    return found | ({"unread": {**mean_interval([]).as_dict(), "abstained": unread}} if unread else {})


def value_of(score: judge_pb2.JudgeScore) -> float | None:
    """The judge's score from 1 to 10, or None where it abstains."""
    return score.score if score.WhichOneof("outcome") == "score" else None
