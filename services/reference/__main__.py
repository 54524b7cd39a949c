"""python -m services.reference --follow MODELS_DIR/sft"""

from __future__ import annotations

from services.model_settings import ModelSettings
from services.settings import parse_settings


def main() -> None:
    """Serves until told to stop."""
    settings = parse_settings(ModelSettings, "python -m services.reference")
    # After the settings, so that a fault in them is told at once: torch takes seconds to import.
    from services.reference.hosting import Reference
    from services.reference.service import ReferenceServicer
    from services.server import Host, run

    def build(host: Host) -> ReferenceServicer:
        return ReferenceServicer(Reference(host, settings))

    run("trueline.v1.ReferenceService", build, settings)


if __name__ == "__main__":
    main()
