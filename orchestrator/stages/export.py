"""Copying a model out as a plain Hugging Face directory."""

from pathlib import Path
from typing import Any

from orchestrator.export import export_model
from orchestrator.recipe_stages import ExportStage
from orchestrator.run import Run, name_of
from orchestrator.summary import model_card


async def run_export(run: Run, name: str, settings: ExportStage) -> dict[str, Any]:
    """Exports the model's newest version with a card that says where it comes from."""
    where = run.locate(settings.model)
    directory = Path(settings.directory)

    async def produce() -> dict[str, Any]:
        export_model(Path(where.uri), directory, model_card(run.ledger, name_of(settings.model, where)))
        return {"directory": str(directory), "model": name_of(settings.model, where)}

    return await run.durable(name, 1, "exported", produce)
