"""A refresh: between two rounds the policy's own answers are compared, and the reward model learns from them.

    rounds 1-5 ─► refresh ─► rounds 6-10 ─► refresh ─► ...
                  collect: fresh prompts, answered by the newest policy, compared by who labels
                  reward: from its own init, on all comparisons so far ─► the next version, which is served

The trainer leaves the rounds for it and comes back by checkpoint, so that optimizers and schedules go on as
if nothing had been in between.
"""

from typing import Any

from orchestrator.data import read_prompts
from orchestrator.recipe_stages import CollectStage, RewardStage
from orchestrator.refreshes import Refresh, collected_for
from orchestrator.run import Run, Stopwatch
from orchestrator.seeds import derive, shuffled
from orchestrator.shapes import opening
from orchestrator.sources import read_rows
from orchestrator.stages.collect import collect_on
from orchestrator.stages.reward import limited, to_train, train_reward

Row = dict[str, Any]


def is_done(run: Run, refresh: Refresh) -> bool:
    """True where the ledger has all of it."""
    rows = (run.ledger.stage(name) for name in refresh.stages)
    return all(row is not None and row["status"] == "finished" for row in rows)


async def run_refresh(run: Run, parent: str, refresh: Refresh) -> None:
    """Every part of it that is not finished, in order, each from where the ledger stands."""
    position = run.ledger.stage(parent)["position"]  # type: ignore[index]
    for name, settings in refresh.stages.items():
        if run.ledger.begin_stage(name, settings.kind, position)["status"] == "finished":
            continue
        watch = Stopwatch()
        result = await run_part(run, name, settings)
        run.ledger.add_stage_seconds(name, watch.seconds)
        run.ledger.finish_stage(name, result)
        run.retainer.finish(name)
        run.progress.stage_finished(name, watch.seconds)


async def run_part(run: Run, name: str, settings: CollectStage | RewardStage) -> dict[str, Any]:
    """One of its stages."""
    if isinstance(settings, CollectStage):
        prompts = read_rows(run, read_prompts, settings.prompts)
        drawn = shuffled(len(prompts), derive(run.recipe.seed, name, "prompts"))[: settings.prompt_limit]
        return await collect_on(run, name, settings, [prompts[index] for index in drawn], sides(run, name))
    collections = [run.ledger.all_comparisons(each) for each in collected_for(run.recipe, name)]
    repeated, rows = learned_from(collections, settings)
    return await train_reward(run, name, repeated, rows, to_train(collections[0]))


def sides(run: Run, name: str) -> dict[str, bool]:
    """Of every prompt that was compared before this collection, by what it began with: was it held out?

    By content, since prompts of one text have different names in different files; and held out anywhere is
    held out.
    """
    found: dict[str, bool] = {}
    for collection in run.ledger.collections():
        for row in run.ledger.all_comparisons(collection) if collection != name else ():
            began = opening(row["prompt"])
            found[began] = found.get(began, False) or row["held_out"]
    return found


def learned_from(collections: list[list[Row]], settings: RewardStage) -> tuple[RewardStage, list[Row]]:
    """The rows of those collections together, and the settings for them.

    The stage's limit holds for its own comparisons alone: it is spent here, and gone from the settings.
    """
    own, *fresh = collections
    kept = [*limited(to_train(own), settings.comparison_limit), *(row for row in own if row["held_out"])]
    unlimited = settings.model_copy(update={"comparison_limit": None})
    return unlimited, [*kept, *(row for rows in fresh for row in rows)]
