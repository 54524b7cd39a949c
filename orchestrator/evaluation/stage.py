"""The stage `assess`: two models on held-out prompts, and what their scores alone do not say."""

from typing import Any

from orchestrator.evaluation.drawn import measure_best_of_n, measure_diversity
from orchestrator.evaluation.judged import compare_by_judge, principle_scores
from orchestrator.evaluation.pairs import figures_of_pairs, outcomes_of_scores
from orchestrator.evaluation.probed import measure_probes
from orchestrator.evaluation.texts import lengths, variety
from orchestrator.recipe_evaluation import AssessStage
from orchestrator.run import Run
from orchestrator.stages.evaluate import Measured, before_and_after, measure


async def run_assess(run: Run, name: str, settings: AssessStage) -> dict[str, Any]:
    """Every part that the recipe asks for; each is durable, so that a resume goes on behind it."""
    if settings.reference is None:
        run.ledger.note("no sequence KL: no reference of the same tokenizer whose own samples these would be")
    found = await measure(run, name, settings)
    result = before_and_after(settings, found)
    for role, model in (("before", settings.before), ("after", settings.after)):
        rollouts = found.sampled[role]
        result["models"][model] |= {
            "lengths": lengths(rollouts),
            "variety": variety([each.response_text for each in rollouts]),
        }
    result["pairs"] = pairs_by_score(found)
    judged = await compare_by_judge(run, name, settings, found)
    result["pairs"] |= {"judge": judged} if judged else {}
    result["principles"] = await principle_scores(run, name, settings, found)
    result["diversity"] = await measure_diversity(run, name, settings, found.prompts)
    result["probes"] = await measure_probes(run, name, settings)
    result["best_of_n"] = await measure_best_of_n(run, name, settings, found.prompts)
    return result


def pairs_by_score(found: Measured) -> dict[str, Any]:
    """Win rates by each score that both models have."""
    sides = found.sampled["before"], found.sampled["after"]
    return {
        role: figures_of_pairs(outcomes_of_scores(before, found.scored["after"][role]), *sides)
        for role, before in found.scored["before"].items()
        if role in ("gold", "proxy")
    }
