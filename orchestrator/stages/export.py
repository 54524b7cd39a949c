"""Copying a model out as a plain Hugging Face directory."""

from pathlib import Path
from typing import Any

from orchestrator.export import export_model
from orchestrator.recipe_stages import ExportStage
from orchestrator.run import Run, name_of


async def run_export(run: Run, name: str, settings: ExportStage) -> dict[str, Any]:
    """Exports the model's newest version with a card that says where it comes from."""
    where = run.locate(settings.model)
    directory = Path(settings.directory)

    async def produce() -> dict[str, Any]:
        export_model(Path(where.uri), directory, model_card(run, name_of(settings.model, where)))
        return {"directory": str(directory), "model": name_of(settings.model, where)}

    return await run.durable(name, 1, "exported", produce)


def model_card(run: Run, version: str) -> dict[str, Any]:
    """The facts of the card: the run, the recipe, and every evaluation so far."""
    stages = run.ledger.all_stages()
    evaluations = [stage["result"] for stage in stages if stage["kind"] == "evaluate" and stage["result"]]
    return {
        "version": version,
        "run": run.name,
        "seed": run.recipe.seed,
        "recipe_sha256": run.recipe.sha256,
        "evaluation": evaluations[-1] if evaluations else None,
    }
