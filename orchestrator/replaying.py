"""Asks a judge again what the ledger says it was asked: the same model and constitution say the same."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.json_format import ParseDict

from orchestrator.judge_audit import model_of, principles_of, readings_of, reason_read
from orchestrator.judge_calls import UNANSWERED
from orchestrator.label_rows import ASIDE
from orchestrator.labelling import as_answer, comparison_item
from orchestrator.launcher import LocalServices
from orchestrator.ledger import Ledger
from orchestrator.mending import Mending
from orchestrator.peers import Peers
from orchestrator.progress import PlainProgress
from orchestrator.recipe import Recipe
from orchestrator.run import Run, RunError, location
from orchestrator.sampling import cut
from trueline.v1 import judge_pb2, types_pb2

Row = dict[str, Any]
AT_ONCE = 32
# A local judge's probabilities depend by bits on what stands beside a question in its batch.
TOLERANCE = 1e-4


@dataclass
class Replay:
    """How many verdicts came out as they were, and those that did not with what they are now."""

    same: int = 0
    to_the_bit: int = 0
    others: list[tuple[Row, str]] = field(default_factory=list)


@asynccontextmanager
async def beside(recipe: Recipe, directory: Path, ledger: Ledger, service: str) -> AsyncIterator[Run]:
    """A run that is only asked about: one of its services stands, and its ledger is not written."""
    progress, limits = PlainProgress(sys.stderr), recipe.supervision
    async with (
        LocalServices(recipe.services, directory, only=frozenset({service}), supervision=limits) as local,
        Peers({**local.addresses, **{name: [] for name in local.addresses if name != service}}) as peers,
    ):
        mending = Mending(limits, asyncio.Event(), progress.note)
        yield Run(recipe, directory, ledger, peers, progress, mending)


async def replay(recipe: Recipe, directory: Path, ledger: Ledger, verdicts: Sequence[Row]) -> Replay:
    """Asks about each pair again, on the version that judged it; the run's ledger is left as it is."""
    found = Replay()
    async with beside(recipe, directory, ledger, "judge") as run:
        for rows in by_question(verdicts):
            version = await served(run, rows[0])
            for part in cut(rows, AT_ONCE):
                reply = await run.peers.judge.compare(question_of(part, version), deadline=run.deadline)
                for row, verdict in zip(part, reply.verdicts, strict=True):
                    compare(found, row, as_answer(verdict))
    return found


def is_answered(row: Row) -> bool:
    """True where the judge answered every question behind a verdict: only then can it come out the same.

    False too for what was set aside, since it was asked about again.
    """
    unread = {reason_read(each) for each in readings_of(row) if "abstention" in each}
    return not row["item"].startswith(ASIDE) and not UNANSWERED & {row["reason"], *unread}


def by_question(verdicts: Sequence[Row]) -> list[list[Row]]:
    """Verdicts that one call can ask for again: of one judge, asked in one way by the same principles."""
    groups: dict[str, list[Row]] = {}
    for row in verdicts:
        said = row["verdict"]
        key = [said["judge"], said["constitution_sha256"], row["question"], principles_of(row)]
        groups.setdefault(json.dumps(key, sort_keys=True), []).append(row)
    return list(groups.values())


async def served(run: Run, row: Row) -> types_pb2.ModelVersion | None:
    """Has the judge serve the version that gave this verdict; None for an endpoint."""
    judge = ParseDict(row["verdict"]["judge"], judge_pb2.JudgeModel())
    if not judge.HasField("version"):
        return None
    kept, given = run.ledger.version(judge.version.model, judge.version.number), run.recipe.services.judge
    if kept is not None and kept["removed_at"] is None:
        places = [location(judge.version.model, kept)]
    else:  # plain directories that the recipe names: one of them it was
        named = given.judges if kept is None else []
        places = [run.locate(each) for each in named if each in run.recipe.models]
    if not places:
        raise RunError(f"{model_of(row)}, which judged {row['item']}, is not kept any more")
    for place, where in enumerate(places):
        header = run.header(f"replay/{judge.version.sha256}/{judge.version.number}/{place}")
        version = await run.peers.serve_judge(where, header)
        if version == judge.version:
            return version
    told = ", ".join(where.uri for where in places)
    raise RunError(f"{told} is not what judged {row['item']}: its content has changed since")


def question_of(rows: Sequence[Row], version: types_pb2.ModelVersion | None) -> judge_pb2.CompareRequest:
    """What was asked about these pairs, with the principles that were drawn then."""
    request = ParseDict(rows[0]["question"], judge_pb2.CompareRequest())
    request.principles.names[:] = principles_of(rows[0])
    request.principles.tags[:] = []
    request.expected_constitution_sha256 = rows[0]["verdict"]["constitution_sha256"]
    if version is not None:
        request.expected_version.CopyFrom(version)
    request.items.extend(
        comparison_item(row["item"], row["prompt"], row["first"], row["second"]) for row in rows
    )
    return request


def compare(found: Replay, row: Row, now: Row) -> None:
    """Counts a verdict as the same, or tells what it is now."""
    before, after = row["probability"], now.get("probability")
    if before is None or after is None:
        same = before is after and row["reason"] == now.get("reason")
        found.to_the_bit += same
    else:
        same = abs(before - after) <= TOLERANCE
        found.to_the_bit += before == after
    found.same += same
    if not same:
        was, is_now = (
            (row["reason"] if before is None else before),
            (now.get("reason") if after is None else after),
        )
        found.others.append((row, f"was {was}, is {is_now}"))
