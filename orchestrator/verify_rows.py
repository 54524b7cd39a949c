"""What a run's rows must say of each other: stages, rounds, the cursor, phases, steps, versions."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from orchestrator.recipe import Recipe
from orchestrator.refreshes import all_stages, refreshes_of
from orchestrator.training import AGAIN
from orchestrator.verify_findings import Finding, Rows

# Phases of one round in the order of their writing; those of a step that a budget stopped end otherwise.
ROUND_PHASES = {
    "pretrain": ("trained",),
    "sft": ("trained",),
    "reward": ("trained",),
    "preference": ("trained",),
    "ppo": ("sampled", "scored", "trained", "published"),
    "dpo": ("sampled", "labelled", "paired", "trained", "published"),
}
STOPPED_PHASES = {
    "ppo": ("sampled", "scored", "trained", "rolled_back"),
    "dpo": ("sampled", "labelled", "paired", "rolled_back"),
}
# Phases of a finished stage that goes in no rounds.
STAGE_PHASES = {
    "collect": ("labelled",),
    "revise": ("demonstrations",),
    "judge_check": ("asked",),
    "evaluate": ("before", "after"),
    "export": ("exported",),
}
TRAINING = tuple(ROUND_PHASES)


def check_rows(rows: Rows, recipe: Recipe) -> Iterator[Finding]:
    """Every finding that needs no file."""
    yield from check_stages(rows, recipe)
    yield from check_refreshes(rows, recipe)
    yield from check_epochs(rows)
    planned = all_stages(recipe)
    for stage in rows.stages:
        name, kind = stage["stage"], stage["kind"]
        yield from check_rounds(rows, name)
        yield from check_cursor(rows, name, getattr(planned.get(name), "prompts_per_round", 0))
        yield from check_rolled_back(rows, stage)
        yield from check_phases(rows, name, kind)
        if kind in TRAINING:
            yield from check_steps(rows, name)
            yield from check_trained_again(rows, name)
            yield from check_published(rows, stage)
        if stage["status"] == "finished":
            for phase in STAGE_PHASES.get(kind, ()):
                if rows.phase(name, 1, phase) is None:
                    yield Finding(
                        "phase_missing", f"{name} 1 {phase}", "no row", "one, as the stage is finished"
                    )
    yield from check_comparisons(rows)


def check_stages(rows: Rows, recipe: Recipe) -> Iterator[Finding]:
    """Stages are those of the recipe, in its order; each but the last begun is finished."""
    planned = list(recipe.stages)
    within = all_stages(recipe).keys() - recipe.stages.keys()
    stages = [stage for stage in rows.stages if stage["stage"] not in within]
    begun = [stage["stage"] for stage in stages]
    if begun != planned[: len(begun)]:
        yield Finding("stage_order", "stages", ", ".join(begun), ", ".join(planned))
    for stage in stages[:-1]:
        if stage["status"] != "finished":
            yield Finding(
                "stage_order", stage["stage"], stage["status"], "finished, as a later stage has begun"
            )


def check_refreshes(rows: Rows, recipe: Recipe) -> Iterator[Finding]:
    """Each refresh of the reward model is whole before the round behind it begins, and none came early."""
    statuses = {stage["stage"]: stage["status"] for stage in rows.stages}
    for parent in recipe.stages:
        found = rows.rounds(parent)
        closed = max((row["round"] for row in found if row["status"] != "open"), default=0)
        for refresh in refreshes_of(recipe, parent):
            for name in refresh.stages:
                status = statuses.get(name, "not begun")
                if status != "finished" and any(row["round"] > refresh.behind for row in found):
                    told = f"finished, as {parent} {refresh.behind + 1} has begun"
                    yield Finding("refresh_missing", name, status, told)
                if name in statuses and closed < refresh.behind:
                    told = f"not begun before {parent} {refresh.behind} is closed"
                    yield Finding("refresh_early", name, status, told)


def check_epochs(rows: Rows) -> Iterator[Finding]:
    """The epoch of what was written later is never lower, and none is above the run's."""
    highest = 0
    for row in rows.phases:
        where, epoch = place(row), row["epoch"]
        if epoch < highest:
            yield Finding(
                "epoch_backwards", where, f"epoch {epoch}", f"at least {highest}, as written before it"
            )
        if not 1 <= epoch <= rows.run["epoch"]:
            yield Finding("epoch_unknown", where, f"epoch {epoch}", f"1 to {rows.run['epoch']}, the run's")
        highest = max(highest, epoch)


def check_rounds(rows: Rows, stage: str) -> Iterator[Finding]:
    """Rounds count from 1 without a gap; only the last may be open."""
    found = rows.rounds(stage)
    for place_, row in enumerate(found, start=1):
        if row["round"] != place_:
            yield Finding("round_missing", f"{stage} {place_}", f"round {row['round']}", f"round {place_}")
            return
    for row in found[:-1]:
        if row["status"] == "open":
            yield Finding(
                "round_open", f"{stage} {row['round']}", "open", "closed, as a later round has begun"
            )


def check_cursor(rows: Rows, stage: str, prompts_per_round: int) -> Iterator[Finding]:
    """Each round takes the prompts behind the one before: none skipped, none twice."""
    end = 0
    for row in rows.rounds(stage):
        start, expected = row["cursor_start"], (end, end + prompts_per_round)
        if (start, row["cursor_end"]) != expected:
            kind = "prompt_repeated" if start < end else "prompt_missing"
            found = f"prompts {start} to {row['cursor_end']}"
            yield Finding(kind, f"{stage} {row['round']}", found, f"prompts {expected[0]} to {expected[1]}")
        end = row["cursor_end"]


def check_rolled_back(rows: Rows, stage: dict[str, Any]) -> Iterator[Finding]:
    """A rollback ends its stage; the rounds behind the good one, and only those, are rolled back."""
    name = stage["stage"]
    found = rows.rounds(name)
    backs = {row["round"]: row["output"] for row in rows.phases_named(name, "rolled_back")}
    back = max(backs, default=None)
    good = backs[back]["good"] if back is not None else None
    last = found[-1]["status"] if found else ""
    # A rollback is written a moment before its rounds are marked.
    marked = last == "rolled_back" if back is not None else last != "open"
    settled = stage["status"] == "finished" or marked
    for row in found:
        where = f"{name} {row['round']}"
        if back is not None and row["round"] > back:
            yield Finding(
                "round_after_rollback", where, row["status"], f"none behind round {back}, rolled back"
            )
        expected = good is not None and row["round"] > good
        if settled and (row["status"] == "rolled_back") != expected:
            because = f"round {back} went back to {good}" if back is not None else "no rollback is recorded"
            yield Finding("rollback_unexplained", where, row["status"], because)


def check_phases(rows: Rows, stage: str, kind: str) -> Iterator[Finding]:
    """A closed round has all its phases, written in their order, behind those of the round before."""
    last, last_place = 0, ""
    for row in rows.rounds(stage):
        number = row["round"]
        for name in names_of_phases(rows, stage, number, kind):
            phase, where = rows.phase(stage, number, name), f"{stage} {number} {name}"
            if phase is None:
                if row["status"] != "open":
                    yield Finding("phase_missing", where, "no row", f"one, as the round is {row['status']}")
                continue
            at = rows.position(phase)
            if at < last:
                yield Finding("phase_order", where, f"written before {last_place}", "written behind it")
            last, last_place = max(at, last), where
    known = {row["round"] for row in rows.rounds(stage)}
    for phase in rows.phases_of(stage):
        # Round 0 is what a stage does before its first round.
        if kind in ROUND_PHASES and phase["round"] not in {0, *known}:
            yield Finding("round_missing", f"{stage} {phase['round']}", "no row", f"one, for {place(phase)}")


def names_of_phases(rows: Rows, stage: str, number: int, kind: str) -> tuple[str, ...]:
    """The phases that a round must have, by whether a budget stopped it, or turned down what it published."""
    if rows.phase(stage, number, "rolled_back") is None:
        return ROUND_PHASES.get(kind, ())
    if rows.phase(stage, number, "published") is None:
        return STOPPED_PHASES.get(kind, ())
    return (*ROUND_PHASES.get(kind, ()), "rolled_back")


def check_steps(rows: Rows, stage: str) -> Iterator[Finding]:
    """One step a round, each behind the other; a step that left the weights alone is none."""
    step = 0
    for row in rows.phases_named(stage, "trained"):
        output = row["output"]
        step += 1 if output["trained"] else 0
        if output["step"] != step:
            yield Finding("step_skipped", place(row), f"step {output['step']}", f"step {step}")
            step = output["step"]


def check_trained_again(rows: Rows, stage: str) -> Iterator[Finding]:
    """A step whose replay changed its weights says which they were, and none of them was in a version yet."""
    published = rows.phases_named(stage, "published")
    for row in (each for each in rows.phases_of(stage) if each["phase"].startswith(AGAIN)):
        count, changed = int(row["phase"].removeprefix(AGAIN)), row["output"]["instead_of"]
        before = rows.phase(stage, row["round"], f"{AGAIN}{count - 1}" if count > 1 else "trained")
        recorded = before["output"]["weights_sha256"] if before else "no row"
        if changed != recorded:
            yield Finding("weights_unexplained", place(row), f"instead of {changed}", recorded)
        for version in published:
            if version["round"] >= row["round"] and rows.position(version) < rows.position(row):
                yield Finding("weights_changed", place(row), "other weights", f"those of {place(version)}")


def check_published(rows: Rows, stage: dict[str, Any]) -> Iterator[Finding]:
    """What a phase says was published is what the version's row says, and no version is without one."""
    name = stage["stage"]
    said = {
        row["output"]["number"]: row
        for phase in ("published", "rolled_back")
        for row in rows.phases_named(name, phase)
    }
    kept = {row["number"]: row for row in rows.versions if row["stage"] == name}
    open_rounds = {row["round"] for row in rows.rounds(name) if row["status"] == "open"}
    for number, row in said.items():
        version, digest = kept.get(number), row["output"].get("sha256")
        if version is None:
            yield Finding("version_missing", place(row), "no version's row", f"one of number {number}")
        elif digest is not None and version["sha256"] != digest:
            yield Finding(
                "version_digest", place(row), digest, f"{version['sha256']}, as the version's row says"
            )
    for number, version in kept.items():
        # A version is kept a moment before its phase; a run that died between the two mends it.
        if number not in said and stage["status"] == "finished" and version["round"] not in open_rounds:
            where = f"{version['model']}@{number}"
            yield Finding("version_unexplained", where, "no phase that published it", f"one in {name}")


def check_comparisons(rows: Rows) -> Iterator[Finding]:
    """A collection counts its rows from 0, has each prompt once, and compares responses that it has."""
    for name in sorted({row["collection"] for row in rows.comparisons}):
        collected = [row for row in rows.comparisons if row["collection"] == name]
        seen: set[str] = set()
        for expected, row in enumerate(collected):
            where = f"comparisons {name} {row['position']}"
            if row["position"] != expected:
                yield Finding(
                    "comparison_missing", where, f"position {row['position']}", f"position {expected}"
                )
                break
            if row["prompt_id"] in seen:
                yield Finding(
                    "prompt_repeated", where, f"prompt {row['prompt_id']} again", "each prompt once"
                )
            seen.add(row["prompt_id"])
            highest = max((max(pair[:2]) for pair in row["preferences"]), default=-1)
            if highest >= len(row["responses"]):
                found = f"response {highest:g} compared"
                yield Finding("comparison_range", where, found, f"{len(row['responses'])} responses")


def version_chain(rows: Rows, parents: dict[tuple[str, int], dict[str, Any] | None]) -> Iterator[Finding]:
    """Each version's parent is the one before it, or the good one of a rollback; `parents` by version.

    The first version of a stage has what the stage began from, also where an earlier stage made some.
    """
    goods = {
        (row["stage"], row["output"]["number"]): row["output"]["good"]
        for row in rows.phases
        if row["phase"] == "rolled_back"
    }
    known = {(row["model"], row["number"]): row["sha256"] for row in rows.versions}
    for model in sorted({row["model"] for row in rows.versions}):
        chain = [row for row in rows.versions if row["model"] == model]
        for before, row in pairwise([None, *chain]):
            assert row is not None
            number = row["number"]
            previous = before["number"] if before and before["stage"] == row["stage"] else None
            if (model, number) not in parents:
                continue  # its files are damaged, which is said where they are read
            good = goods.get((row["stage"], number), previous)
            yield from _parent_faults(model, number, parents[model, number], good or None, known)


def _parent_faults(
    model: str,
    number: int,
    parent: dict[str, Any] | None,
    expected: int | None,
    known: dict[tuple[str, int], str],
) -> Iterator[Finding]:
    """`expected` None: the parent is what the stage began from, another model or a plain directory."""
    where = f"{model}@{number}"
    if parent is None:
        yield Finding("version_parent", where, "no parent", "one")
        return
    named = (parent["model"], parent["number"])
    found = f"{named[0]}@{named[1]} ({parent['sha256'][:12]})"
    if expected is not None and named != (model, expected):
        yield Finding("version_parent", where, found, f"{model}@{expected}")
    elif expected is None and named[0] == model and named[1]:
        yield Finding("version_parent", where, found, "the model that the stage began from")
    elif named[1] and known.get(named) != parent["sha256"]:
        digest = known.get(named, "")[:12]
        yield Finding(
            "version_parent", where, found, f"SHA-256 {digest}" if digest else "a version of this run"
        )


def place(row: dict[str, Any]) -> str:
    """A phase as a person names it: ppo 12 trained."""
    return f"{row['stage']} {row['round']} {row['phase']}"
