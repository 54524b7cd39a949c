"""One round of each algorithm, as prose, and the stages that repeat them."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from orchestrator.recipe_rounds import DpoStage, PpoStage
from orchestrator.run import Run
from orchestrator.stages.budget import hold_last
from orchestrator.stages.dpo import DpoRounds
from orchestrator.stages.online import OnlineRounds
from orchestrator.stages.ppo import PpoRounds
from trueline import call_context

Rounds = TypeVar("Rounds", bound=OnlineRounds)


async def ppo_round(stage: PpoRounds, number: int) -> bool:
    """Online PPO (Schulman et al. 2017; Ziegler et al. 2019): one round. False when the KL budget ended it.

    Every line is durable before the next begins, and a line whose output is in the ledger costs
    nothing, so that a run that died goes on where it stood.
    """
    await stage.refresh(number)
    prompts = stage.draw(number)
    await stage.sample_and_score(number, prompts)
    trained = await stage.train(number)
    if stage.over_budget(trained):
        await stage.roll_back(number, trained["metrics"].get("kl_reference_k1"))
        return False
    await stage.publish(number)
    await stage.serve()
    await stage.commit(number, trained)
    return True


async def dpo_round(stage: DpoRounds, number: int) -> bool:
    """Iterative DPO (Rafailov et al. 2023; Xiong et al. 2024): one round on pairs of its own answers.

    As durable as ppo_round. The reference stays what it was, so that rounds add up to one objective.
    """
    await stage.refresh(number)
    prompts = stage.draw(number)
    labelled = await stage.sample_and_label(number, prompts)
    if stage.over_budget(labelled):
        await stage.roll_back(number, labelled.get("kl_reference_k1"))
        return False
    if stage.has_no_pair(labelled):
        await stage.end(number, labelled)
        return False
    trained = await stage.train(number)
    await stage.publish(number)
    await stage.serve()
    await stage.commit(number, labelled, trained)
    return True


async def run_ppo(run: Run, name: str, settings: PpoStage) -> dict[str, Any]:
    """The PPO stage: rounds until they are done or the budget stops them."""
    return await repeat(ppo_round, await PpoRounds.begin(run, name, settings))


async def run_dpo(run: Run, name: str, settings: DpoStage) -> dict[str, Any]:
    """The DPO stage, likewise."""
    return await repeat(dpo_round, await DpoRounds.begin(run, name, settings))


async def repeat(a_round: Callable[[Rounds, int], Awaitable[bool]], stage: Rounds) -> dict[str, Any]:
    """Rounds until none is left or one says that it was the last; the last version meets the budget too."""
    for number in stage.rounds_left():
        with call_context(round=number):
            if not await a_round(stage, number):
                break
    await hold_last(stage)
    return stage.result()
