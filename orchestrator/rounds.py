"""One round of each algorithm, as prose, and the stage that repeats it."""

from typing import Any

from orchestrator.recipe_stages import PpoStage
from orchestrator.run import Run
from orchestrator.stages.ppo import PpoRounds
from trueline import call_context


async def ppo_round(stage: PpoRounds, number: int) -> bool:
    """Online PPO (Schulman et al. 2017; Ziegler et al. 2019): one round. False when the KL budget ended it.

    Every line is durable before the next begins, and a line whose output is in the ledger costs
    nothing, so that a run that died goes on where it stood.
    """
    prompts = stage.draw(number)
    await stage.sample_and_score(number, prompts)
    trained = await stage.train(number)
    if stage.over_budget(trained):
        await stage.roll_back(number, trained)
        return False
    await stage.publish(number)
    await stage.serve()
    await stage.commit(number, trained)
    return True


async def run_ppo(run: Run, name: str, settings: PpoStage) -> dict[str, Any]:
    """The PPO stage: rounds until they are done or the budget stops them."""
    stage = await PpoRounds.begin(run, name, settings)
    for number in stage.rounds_left():
        with call_context(round=number):
            if not await ppo_round(stage, number):
                break
    return stage.result()
