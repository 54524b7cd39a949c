"""How much of a run stays on disk. It changes no result, so a resume may differ."""

from typing import Annotated

from pydantic import Field

from orchestrator.recipe_settings import Settings

CountOrAll = Annotated[int, Field(ge=0, le=2**31 - 1)] | None


class Retention(Settings):
    """What is kept; 0 or null keeps all. What a crash or a later stage needs stays, whatever this says."""

    rollouts: CountOrAll = 100
    """Newest rounds of each stage whose rollouts stay, the open one among them; older ones keep their count,
    names and lengths in the ledger."""
    checkpoints: CountOrAll = 3
    """Newest checkpoints of each stage; the rollouts since the oldest of them stay, for replay."""
    versions: CountOrAll = 5
    """Newest versions of each model; at least 3, which a rollback may need."""
