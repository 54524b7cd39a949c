"""python -m services.judge --constitution FILE --follow MODELS_DIR/judge
python -m services.judge --constitution FILE --endpoint http://vllm:8000/v1 --endpoint-model NAME
python -m services.judge import FILE ... --output constitution.yaml      # from public file shapes
"""

from __future__ import annotations

import sys

from services.judge.settings import JudgeSettings
from services.settings import parse_settings


def main() -> None:
    """Serves until told to stop, or imports a constitution."""
    if sys.argv[1:2] == ["import"]:
        from services.judge.importing import main as import_files

        raise SystemExit(import_files(sys.argv[2:]))
    settings = parse_settings(JudgeSettings, "python -m services.judge")
    # After the settings, so that a fault in them is told at once: torch takes seconds to import.
    from services.judge.hosting import Judge
    from services.judge.service import JudgeServicer
    from services.server import Host, run

    def build(host: Host) -> JudgeServicer:
        return JudgeServicer(Judge(host, settings))

    run("trueline.v1.JudgeService", build, settings)


if __name__ == "__main__":
    main()
