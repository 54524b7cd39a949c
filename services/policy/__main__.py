"""python -m services.policy --follow MODELS_DIR/policy"""

from __future__ import annotations

from services.policy.settings import PolicySettings
from services.settings import parse_settings


def main() -> None:
    """Serves until told to stop."""
    settings = parse_settings(PolicySettings, "python -m services.policy")
    # After the settings, so that a fault in them is told at once: torch takes seconds to import.
    from services.policy.hosting import Policy
    from services.policy.service import PolicyServicer
    from services.server import Host, run

    def build(host: Host) -> PolicyServicer:
        return PolicyServicer(Policy(host, settings))

    run("trueline.v1.PolicyService", build, settings)


if __name__ == "__main__":
    main()
