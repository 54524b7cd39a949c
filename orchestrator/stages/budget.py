"""Holds the version that a stage ends with against its hard KL budget, as a round behind it would.

The batch of round n tells the KL of version n - 1, so no round measures the last one.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from orchestrator.peers import in_parallel
from orchestrator.prompts import Asked
from orchestrator.sampling import Sampler, cut_prompts, reference_logprobs
from orchestrator.seeds import derive
from orchestrator.stages.evaluate import sequence_kl
from orchestrator.stages.online import OnlineRounds, Rollouts


async def hold_last(stage: OnlineRounds) -> None:
    """Goes back to the version before where the last one is at the hard budget.

    Costs nothing where there is no such budget, or where the stage has ended before its last round.
    """
    run, name, number, hard = stage.run, stage.name, stage.settings.rounds, stage.hard_budget
    if not hard or any(each.status == "rolled_back" for each in run.ledger.all_rounds(name)):
        return
    if stage.settings.sampling.is_filtered:
        run.ledger.note(
            f"{name}: its last version is not held against the hard budget, since top_p or top_k filters "
            "what is sampled"
        )
        return
    kl = (await run.durable(name, number, "held", partial(measured, stage, number)))["kl_reference_k1"]
    if not kl < hard:
        good, version = number - 1, number + 1
        back = f"rolled back to version {good} as version {version}"
        why = f"made a version whose KL is at the hard budget; {back}"
        await stage.end_at(number, good, kl, why, version)


async def measured(stage: OnlineRounds, number: int) -> dict[str, Any]:
    """KL of version `number` on the batch that the next round would draw; its prompts stay unused."""
    settings, seed = stage.settings, derive(stage.seed, number + 1)
    sampler = Sampler(stage.run, stage.name, number, settings.sampling, seed, "last-", stage.truncate)

    async def draw(index: int, asked: Sequence[Asked]) -> Rollouts:
        rollouts = await sampler.chunk(index, asked, settings.samples_per_prompt, stage.policy)
        await reference_logprobs(stage.run, rollouts, stage.reference)
        return rollouts

    asked = stage.asked_from(
        stage.run.ledger.all_rounds(stage.name)[-1].cursor_end, settings.prompts_per_round
    )
    chunks = cut_prompts(asked, settings.prompts_per_chunk, settings.samples_per_prompt)
    drawn = await in_parallel(draw(index, chunk) for index, chunk in enumerate(chunks))
    rollouts = [each for chunk in drawn for each in chunk]
    found = {f"kl_reference_{name}": kl["mean"] for name, kl in sequence_kl(rollouts).items()}
    return {"rollouts": len(rollouts), **found}
