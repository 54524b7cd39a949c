"""Settings of a service that holds one model: which one, and how it comes by new versions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from services.settings import ServerSettings, directory, setting


@dataclass(frozen=True, kw_only=True)
class ModelSettings(ServerSettings):
    """With neither --model nor --follow it waits, NOT_SERVING, for LoadWeights."""

    model: Path | None = setting(None, "A model directory to serve at start, as it stands.", parse=directory)
    follow: Path | None = setting(
        None,
        "MODELS_DIR/NAME: serve the version that its COMMITTED pointer names, now and whenever it moves.",
        parse=Path,
    )
    device: str = setting("cpu", "Where the model runs, as torch names it: cpu, cuda, cuda:1.")

    def faults(self) -> list[str]:
        """Two sources of the first version."""
        both = self.model is not None and self.follow is not None
        return [*super().faults(), *(["--model, --follow: give one of the two"] if both else [])]
