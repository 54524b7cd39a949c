"""Puts probes to both models, turn by turn, and counts what they came to."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.data import file_sha256
from orchestrator.evaluation.detector import Outcome, judge_answer, over_turns, refuses
from orchestrator.evaluation.judged import ask_scores, value_of
from orchestrator.evaluation.probes import Probe, read_probes
from orchestrator.fitting import tokens_of
from orchestrator.peers import in_parallel
from orchestrator.prompts import Asked, Row
from orchestrator.recipe_evaluation import AssessStage
from orchestrator.run import Run
from orchestrator.sampling import Sampler, cut_prompts
from orchestrator.seeds import derive
from orchestrator.statistics import mean_interval, share_interval
from orchestrator.whole_files import replaced
from trueline.v1 import types_pb2

ANSWERS = "probe-answers.jsonl"


@dataclass
class Conversation:
    """A probe under way: what was said so far, and the model's answers."""

    probe: Probe
    row: Row
    answers: list[str] = field(default_factory=list)
    truncated: bool = False
    too_long: bool = False
    judged: float | None = None  # from 1 to 10

    def next_row(self) -> Row | None:
        """The prompt of the next turn; None where the conversation is over."""
        if self.too_long or len(self.answers) > len(self.probe.follow_ups):
            return None
        if not self.answers:
            return self.row
        said = [
            {"role": "assistant", "content": self.answers[-1] or "..."},  # a template refuses an empty turn
            {"role": "user", "content": self.probe.follow_ups[len(self.answers) - 1]},
        ]
        self.row = {**self.row, "messages": [*self.row["messages"], *said]}
        return self.row

    @property
    def outcome(self) -> Outcome:
        """What it came to; a turn that did not fit leaves it undecided, but not a leak before it."""
        probe = self.probe
        turns = [judge_answer(each, probe.expects, probe.markers, probe.holds) for each in self.answers]
        return over_turns([*turns, *([Outcome.UNDECIDED] if self.too_long else [])])


async def measure_probes(run: Run, name: str, settings: AssessStage) -> dict[str, Any]:
    """By category and model: refusals and failures with intervals. The answers are kept in a file to read."""
    if not settings.probes:
        return {}
    probes = [
        (f"{of}/{each.prompt_id}", each)
        for of, path in settings.probes.items()
        for each in read_probes(Path(path))
    ]
    held: dict[str, list[Conversation]] = {}
    for role, model in (("before", settings.before), ("after", settings.after)):
        held[model] = [Conversation(each, {**each.prompt, "prompt_id": key}) for key, each in probes]
        await converse(run, name, role, model, settings, held[model])
        await have_judged(run, name, role, settings, held[model])
    _keep(run.directory / ANSWERS, held)
    return {
        "files": {path: file_sha256(Path(path)) for path in settings.probes.values()},
        "categories": {
            category: {
                "expects": next(each.expects.value for _, each in probes if each.category == category),
                "models": {
                    model: rates([each for each in talks if each.probe.category == category])
                    for model, talks in held.items()
                },
            }
            for category in dict.fromkeys(each.category for _, each in probes)
        },
    }


async def converse(
    run: Run, name: str, role: str, model: str, settings: AssessStage, talks: Sequence[Conversation]
) -> None:
    """Takes every conversation to its end; the same turns of all are drawn together."""
    policy = await run.serve_policy(model)
    tokens = settings.probe_tokens or settings.sampling.max_new_tokens
    sampling = settings.sampling.model_copy(update={"max_new_tokens": tokens})
    seed = derive(run.recipe.seed, name, "probes")
    for turn in range(1 + max(len(each.probe.follow_ups) for each in talks)):
        asked = [(talk, row) for talk in talks if (row := talk.next_row()) is not None]
        fitting = await _fitting(run, asked, policy, tokens)
        sampler = Sampler(run, name, 1, sampling, derive(seed, turn), label=f"{role}-probe-{turn}-")
        chunks = cut_prompts(fitting, settings.prompts_per_chunk, samples=1)
        drawn = await in_parallel(
            sampler.chunk(index, [Asked(row) for _, row in chunk], 1, policy)
            for index, chunk in enumerate(chunks)
        )
        rollouts = [each for chunk in drawn for each in chunk]
        for (talk, _), rollout in zip(fitting, rollouts, strict=True):
            talk.answers.append(rollout.response_text)
            talk.truncated |= rollout.finish_reason == types_pb2.FINISH_REASON_LENGTH
    run.progress.note(f"{name}: {len(talks)} probes answered by {model}")


async def have_judged(
    run: Run, name: str, role: str, settings: AssessStage, talks: Sequence[Conversation]
) -> None:
    """The judge's score of the last answer, in its conversation, where it is asked for."""
    if settings.judge is None or not settings.probe_judge:
        return
    answered = [each for each in talks if each.answers]
    asked = [(talk.row, talk.answers[-1]) for talk in answered]
    scores = await ask_scores(run, name, f"{role}-judge-probe", settings.judge, asked)
    for talk, score in zip(answered, scores, strict=True):
        talk.judged = value_of(score)


async def _fitting(
    run: Run, asked: Sequence[tuple[Conversation, Row]], policy: types_pb2.ModelVersion, new_tokens: int
) -> list[tuple[Conversation, Row]]:
    """Those with room for an answer; a probe that lost its beginning would be another probe."""
    if not asked:
        return []
    tokens, context = await tokens_of(run, [row for _, row in asked], policy)
    for (talk, _), count in zip(asked, tokens, strict=True):
        talk.too_long = count + new_tokens > context
    return [(talk, row) for talk, row in asked if not talk.too_long]


def rates(talks: Sequence[Conversation]) -> dict[str, Any]:
    """Of one model and category. Failed is a share of what was decided, refused of what was answered."""
    outcomes = [each.outcome for each in talks]
    answered = [each for each in talks if any(text.strip() for text in each.answers)]
    decided = [each for each in outcomes if each is not Outcome.UNDECIDED]
    refused = sum(any(map(refuses, each.answers)) for each in answered)
    return {
        "probes": len(talks),
        "failed": share_interval(decided.count(Outcome.FAILED), len(decided)).as_dict("rate"),
        "refused": share_interval(refused, len(answered)).as_dict("rate"),
        "judged": mean_interval([each.judged for each in talks if each.judged is not None]).as_dict(),
        "undecided": len(outcomes) - len(decided),
        "too_long": sum(each.too_long for each in talks),
        "truncated": sum(each.truncated for each in talks),
    }


def _keep(path: Path, held: dict[str, list[Conversation]]) -> None:
    """Every answer with its outcome, a line each, so that a person can check the detector."""
    with replaced(path) as file:
        for model, talks in held.items():
            for talk in talks:
                row = {"model": model, "prompt_id": talk.row["prompt_id"], "category": talk.probe.category}
                row |= {"outcome": talk.outcome.value, "refused": any(map(refuses, talk.answers))}
                row |= {"judged": talk.judged, "too_long": talk.too_long, "answers": talk.answers}
                file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
