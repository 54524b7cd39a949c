"""What a scorer of the reward service says of the pairs that a judge has judged: a reward model, or gold."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.labelling import Pair, score_margins
from orchestrator.ledger import Ledger
from orchestrator.recipe import Recipe
from orchestrator.replaying import beside
from orchestrator.run import RunError

Row = dict[str, Any]


async def rated(
    recipe: Recipe, directory: Path, ledger: Ledger, labels: Sequence[Row], scorer: str
) -> list[Row]:
    """The labels, those of the judge with `scorer_margin`: the first's score less the second's, or None.

    The scores are normalised, as they train. RunError for a scorer that the recipe's reward service does not
    host. The ledger is left as it is.
    """
    hosted = recipe.services.reward
    known = [*hosted.learned, *hosted.rules, *hosted.combined]
    if scorer not in known:
        names = ", ".join(known) or "none"
        raise RunError(f"the run's reward service hosts no scorer {scorer!r}, only {names}")
    judged = [row for row in labels if row["source"] == "judge" and row["probability"] is not None]
    pairs = [
        Pair(row["item"], {"prompt_id": row["item"], **row["prompt"]}, row["first"], row["second"], ())
        for row in judged
    ]
    async with beside(recipe, directory, ledger, "reward") as run:
        await run.serve_scorers(scorer)
        margins = await score_margins(run, pairs, scorer, normalised=True)
    found = {id(row): margin for row, margin in zip(judged, margins, strict=True)}
    return [{**row, "scorer_margin": found.get(id(row))} for row in labels]
