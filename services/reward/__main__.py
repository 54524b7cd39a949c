"""python -m services.reward --rule gold=worlds.helpdesk.gold:score --learned reward"""

from __future__ import annotations

from services.reward.settings import RewardSettings
from services.settings import parse_settings


def main() -> None:
    """Serves until told to stop."""
    settings = parse_settings(RewardSettings, "python -m services.reward")
    # After the settings, so that a fault in them is told at once: torch takes seconds to import.
    from services.reward.hosting import Rewards
    from services.reward.service import RewardServicer
    from services.server import Host, run

    def build(host: Host) -> RewardServicer:
        return RewardServicer(Rewards(host, settings))

    run("trueline.v1.RewardService", build, settings)


if __name__ == "__main__":
    main()
