"""Critique and revision: a policy's responses, revised by principles, become demonstrations.

    prompts ─► responses ─► critique ─► revision ─► critique ─► revision ─► demonstrations
                             by a principle drawn for each response and round

Bai et al. (2212.08073), section 3. Every answer is a payload that a phase names, chunk by chunk: `chunk-0`
the responses, `critique-1-0` and `revision-1-0` the judge's replies of the first round, which name
principle, judge and constitution. What a resume finds there is not asked again. A reply that lacks an answer
waits, with those that follow from it, until few enough turn out to be missing: else a resume asks again.
"""

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import Message

from orchestrator.data import read_prompts
from orchestrator.fitting import fitting_prompts
from orchestrator.judge_calls import UNANSWERED, few_at_once, judge_expected, selected
from orchestrator.labelling import reason_of
from orchestrator.payloads import Payload, file_payload, read_payload, write_payload
from orchestrator.peers import in_parallel
from orchestrator.prompts import Asked, Row, conversation
from orchestrator.recipe_judge import ReviseStage, WritingSettings
from orchestrator.run import Run, RunError
from orchestrator.sampling import Sampler, cut_prompts, rollouts_path
from orchestrator.seeds import derive
from orchestrator.shapes import prompt_part
from orchestrator.sources import demonstrations_path, read_rows
from orchestrator.whole_files import replaced
from trueline.v1 import judge_pb2, types_pb2

Reply = TypeVar("Reply", judge_pb2.CritiqueResponse, judge_pb2.ReviseResponse)
PHASE = "demonstrations"
LARGEST_JUDGED = 1024  # rows of one call that the judge takes


@dataclass
class Revised:
    """One response on its way: what it is by now, how it came there, why it was dropped ("" while not)."""

    row: Row
    sample: int
    response: str
    text: str
    policy: str
    trail: list[dict[str, Any]] = field(default_factory=list)
    dropped: str = ""

    def as_demonstration(self) -> dict[str, Any]:
        """A row that an sft stage reads, its trail beside it."""
        prompt = prompt_part(self.row)
        whole: Row = {"text": prompt["text"] + self.text} if "text" in prompt else {}
        if not whole:
            whole = {"messages": [*prompt["messages"], {"role": "assistant", "content": self.text}]}
        origin = {"prompt_id": self.row["prompt_id"], "sample": self.sample, "policy": self.policy}
        return {**whole, **origin, "response": self.response, "trail": self.trail}


async def run_revise(run: Run, name: str, settings: ReviseStage) -> dict[str, Any]:
    """Responses, `rounds` critiques and revisions of each, and the file of what came of them."""

    async def produce() -> dict[str, Any]:
        revising = Revising(run, name, settings)
        revised = await revising.everything()
        revising.refuse_missing(len(revised))
        kept = [each for each in revised if not each.dropped]
        counts = dict(sorted(Counter(each.dropped for each in revised if each.dropped).items()))
        if not kept:
            raise RunError(f"stages.{name}: no revision is left to learn from: {counts}")
        revising.keep_the_rest()
        payload = write_rows(demonstrations_path(run.directory, settings.output), kept)
        return {**payload.as_row(), "responses": len(revised), "dropped": counts, **figures(kept)}

    done = await run.durable(name, 1, PHASE, produce)
    if done["dropped"]:
        run.ledger.note(f"{name}: dropped of {done['responses']} responses: {done['dropped']}")
    left_out = ("path", "sha256", "bytes")
    return {"output": settings.output, **{k: v for k, v in done.items() if k not in left_out}}


def write_rows(path: Path, kept: Sequence[Revised]) -> Payload:
    """The demonstrations as JSON lines, whole and durable."""
    with replaced(path) as file:
        for each in kept:
            file.write(json.dumps(each.as_demonstration(), ensure_ascii=False).encode() + b"\n")
    return file_payload(path)


def figures(kept: Sequence[Revised]) -> dict[str, Any]:
    """How many there are, how many differ from the response, and how often each principle was drawn."""
    changed = sum(each.text != each.response for each in kept)
    principles = Counter(step["principle"] for each in kept for step in each.trail)
    return {
        "demonstrations": len(kept),
        "changed": changed,
        "principles": dict(sorted(principles.items())),
        "judge": kept[0].trail[-1]["judge"],
        "constitution_sha256": kept[0].trail[-1]["constitution_sha256"],
        "example": next((each for each in kept if each.text != each.response), kept[0]).as_demonstration(),
    }


class Revising:
    """The chunks of one stage."""

    def __init__(self, run: Run, name: str, settings: ReviseStage) -> None:
        self.run, self.name, self.settings = run, name, settings
        self.seed = derive(run.recipe.seed, name)
        self.done = 0
        self.free = few_at_once(run)
        self.principles: list[str] = []  # what may be drawn
        self.unanswered: list[str] = []  # why, for each response that the judge did not answer about
        # By chunk: replies that lack an answer, and those that follow from them.
        self.waiting: dict[int, list[tuple[str, Message]]] = {}

    async def everything(self) -> list[Revised]:
        """Every response and what became of it, in the order of the prompts."""
        run, settings = self.run, self.settings
        prompts: list[Row] = read_rows(run, read_prompts, settings.prompts, settings.prompt_limit)
        policy = await run.serve_policy(settings.policy)
        judge = await run.serve_judge()
        in_force = (await run.ask("judge", lambda: run.peers.judge.get_constitution())).constitution
        self.principles = principles_for(self.name, settings, in_force)
        expected = await judge_expected(run, self.name, judge)
        prompts = await fitting_prompts(run, self.name, "prompts", prompts, settings, policy)
        truncate = settings.too_long == "truncate"
        sampler = Sampler(run, self.name, 1, settings.sampling, self.seed, truncate=truncate)

        async def work(index: int, rows: Sequence[Row]) -> list[Revised]:
            rollouts = await sampler.chunk(
                index, [Asked(row) for row in rows], settings.samples_per_prompt, policy
            )
            revised = started(rows, rollouts, settings.samples_per_prompt)
            for number in range(1, settings.rounds + 1):
                await self.revise(expected, number, index, [each for each in revised if not each.dropped])
            self.done += len(rows)
            run.progress.step_done(self.name, self.done, len(prompts), {})
            return revised

        samples = settings.samples_per_prompt
        chunks = cut_prompts(prompts, settings.prompts_per_chunk, samples, rows=LARGEST_JUDGED)
        revised = await in_parallel(work(index, rows) for index, rows in enumerate(chunks))
        return [each for chunk in revised for each in chunk]

    async def revise(
        self, expected: dict[str, Any], number: int, index: int, going_on: Sequence[Revised]
    ) -> None:
        """One round of one chunk: each response is criticised, then revised by the same principle."""
        settings, seed = self.settings, derive(self.seed, "round", number)
        principles = judge_pb2.PrincipleSelection(
            choice=judge_pb2.PRINCIPLE_CHOICE_SAMPLED, names=self.principles, seed=seed
        )
        for each in going_on:
            each.trail.append({})
        if settings.critique:
            writing = settings.critique_writing or settings.writing
            question = judge_pb2.CritiqueRequest(
                items=[judged_response(each) for each in going_on],
                principles=principles,
                sampling=sampling(writing, seed),
                **expected,
            )
            critiques = await self.critiques(index, f"critique-{number}-{index}", question)
            for each, text in zip(going_on, critiques.critiques, strict=True):
                each.dropped = why_not("critique", text, whole=False)
                each.trail[-1] |= {"principle": text.principle, "critique": text.text}
            going_on = [each for each in going_on if not each.dropped]
        request = judge_pb2.ReviseRequest(
            items=[revision_item(each) for each in going_on],
            principles=principles,
            sampling=sampling(settings.writing, seed),
            **expected,
        )
        revisions = await self.revisions(index, f"revision-{number}-{index}", request)
        for each, text in zip(going_on, revisions.revisions, strict=True):
            each.dropped = why_not("revision", text, whole=True)
            by = {"judge": who(revisions.judge), "constitution_sha256": revisions.constitution_sha256}
            each.trail[-1] |= {"principle": text.principle, "revision": text.text, **by}
            each.text = text.text or each.text

    async def critiques(
        self, index: int, phase: str, request: judge_pb2.CritiqueRequest
    ) -> judge_pb2.CritiqueResponse:
        """The judge's critiques of a chunk."""

        async def ask() -> judge_pb2.CritiqueResponse:
            return await self.run.peers.judge.critique(request, deadline=self.run.deadline)

        return await self.kept(index, phase, judge_pb2.CritiqueResponse, ask if request.items else None)

    async def revisions(
        self, index: int, phase: str, request: judge_pb2.ReviseRequest
    ) -> judge_pb2.ReviseResponse:
        """The judge's revisions of a chunk."""

        async def ask() -> judge_pb2.ReviseResponse:
            return await self.run.peers.judge.revise(request, deadline=self.run.deadline)

        return await self.kept(index, phase, judge_pb2.ReviseResponse, ask if request.items else None)

    async def kept(
        self, index: int, phase: str, kind: type[Reply], ask: Callable[[], Awaitable[Reply]] | None
    ) -> Reply:
        """The judge's reply: from the payload of its phase where there is one, else asked for and kept.

        Empty where nothing is asked: all of a chunk may have been dropped.
        """
        if ask is None:
            return kind()
        known = self.run.ledger.phase(self.name, 1, phase)
        if known is not None:
            return read_payload(Payload(**known), kind)
        async with self.free:
            self.run.may_stop(f"{self.name} {phase}")
            with self.run.time.phase(phase):
                reply = await self.run.ask("judge", ask)
        self.run.time.computed(reply.timing)
        missing = unanswered(reply)
        self.unanswered += missing
        if missing or index in self.waiting:
            self.waiting.setdefault(index, []).append((phase, reply))
        else:
            self.keep(phase, reply)
        return reply

    def refuse_missing(self, responses: int) -> None:
        """RunError where too many responses lack an answer: slow or odd ones would be the ones left out."""
        missing, limit = self.unanswered, self.settings.max_missing_share
        if len(missing) > limit * responses:
            raise RunError(
                f"{self.name}: {len(missing)} of {responses} responses have no answer of the judge's, more "
                f"than max_missing_share ({limit:g}) allows; the first: {missing[0]}. Mend the judge and "
                "resume"
            )

    def keep(self, phase: str, reply: Message) -> None:
        """Makes a reply durable."""
        payload = write_payload(rollouts_path(self.run, self.name, 1) / f"{phase}.pb", reply)
        self.run.ledger.finish_phase(self.name, 1, phase, payload.as_row())

    def keep_the_rest(self) -> None:
        """Makes the replies durable that lack an answer: few enough do, and nobody asks again."""
        for index in sorted(self.waiting):
            for phase, reply in self.waiting[index]:
                self.keep(phase, reply)


def principles_for(name: str, settings: ReviseStage, constitution: judge_pb2.Constitution) -> list[str]:
    """What may be drawn: a principle that criticises has to revise too. RunError where there is none."""
    unknown = sorted(set(settings.principles) - {each.name for each in constitution.principles})
    if unknown:
        raise RunError(f"stages.{name}.principles: constitution {constitution.name!r} has no {unknown[0]!r}")
    found = [
        each.name
        for each in selected(constitution, settings)
        if each.revision and (each.critique or not settings.critique)
    ]
    if not found:
        texts = "critique and revision" if settings.critique else "revision"
        raise RunError(
            f"stages.{name}: no principle of constitution {constitution.name!r} that it takes has a {texts}"
        )
    return found


def unanswered(reply: judge_pb2.CritiqueResponse | judge_pb2.ReviseResponse) -> list[str]:
    """Why, for each item of a reply that the judge did not answer about."""
    texts = reply.critiques if isinstance(reply, judge_pb2.CritiqueResponse) else reply.revisions
    gaps = [text.abstention for text in texts if text.WhichOneof("outcome") == "abstention"]
    return [f"{reason_of(gap)}: {gap.message}" for gap in gaps if reason_of(gap) in UNANSWERED]


def started(rows: Sequence[Row], rollouts: Sequence[types_pb2.Rollout], samples: int) -> list[Revised]:
    """The responses of a chunk; an empty one is dropped: there is nothing to revise."""
    answered = [(row, number) for row in rows for number in range(samples)]
    return [
        Revised(
            row,
            number,
            rollout.response_text,
            rollout.response_text,
            f"{rollout.policy_version.model}@{rollout.policy_version.number}",
            dropped="" if rollout.response_text.strip() else "response_empty",
        )
        for (row, number), rollout in zip(answered, rollouts, strict=True)
    ]


def judged_response(each: Revised) -> judge_pb2.JudgedResponse:
    """A response as the judge reads it, as it is by now."""
    made = judge_pb2.JudgedResponse(item_id=f"{each.row['prompt_id']}/{each.sample}", response=each.text)
    if "messages" in each.row:
        made.conversation.CopyFrom(conversation(each.row["messages"]))
    else:
        made.text = each.row["text"]
    return made


def revision_item(each: Revised) -> judge_pb2.RevisionItem:
    """What is revised, with this round's critique and its principle where there is one."""
    said = {key: each.trail[-1].get(key, "") for key in ("critique", "principle")}
    return judge_pb2.RevisionItem(judged=judged_response(each), **said)


def sampling(writing: WritingSettings, seed: int) -> judge_pb2.JudgeSampling:
    """How the judge writes, as the wire says it."""
    return judge_pb2.JudgeSampling(**writing.model_dump(), seed=seed)


def who(judge: judge_pb2.JudgeModel) -> str:
    """A judge as a person reads it: judge@16, or what an endpoint calls its model."""
    return f"{judge.model}@{judge.version.number}" if judge.HasField("version") else judge.model


def why_not(what: str, text: judge_pb2.JudgeText, *, whole: bool) -> str:
    """Why a text of the judge's is of no use, such as "revision_truncated"; "" where it is."""
    if text.WhichOneof("outcome") != "text":
        return f"{what}_{reason_of(text.abstention)}"
    if not text.text.strip():
        return f"{what}_empty"
    return f"{what}_truncated" if whole and text.truncated else ""
