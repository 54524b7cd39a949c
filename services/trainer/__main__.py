"""python -m services.trainer --threads 2; with several ranks --ranks 2, or torchrun -m services.trainer"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass

from services.settings import ServerSettings, above, parse_settings, setting

SERVICE = "trueline.v1.TrainerService"


@dataclass(frozen=True, kw_only=True)
class TrainerSettings(ServerSettings):
    """Trains policies, critics and reward models, one step at a time."""

    device: str = setting(
        "auto", "Where to train: cpu, cuda, cuda:1, or auto: the GPU where there is one, one for each rank."
    )
    ranks: int = setting(
        1,
        "Processes that train one model together, each with its share of weights and rows (FSDP2). Above 1 "
        "this process starts the others on this machine; under torchrun leave it out.",
        parse=above(0),
    )
    rank_timeout: float = setting(
        600.0,
        "Seconds that ranks wait for one another; above the time that one of them needs to write a version.",
        parse=above(0, float),
    )
    activation_checkpointing: bool = setting(
        False,
        "Keep each block's input alone for the backward pass and compute the rest again: less memory, about "
        "a third more time, equal results.",
    )

    def faults(self) -> list[str]:
        """A device that is not there; ranks that contradict torchrun."""
        from services.trainer.device import Compute
        from services.trainer.gang import place_of

        found = super().faults()
        try:
            ranks = place_of(dict(os.environ), self.ranks, self.rank_timeout)
        except ValueError as error:
            return [*found, f"--ranks: {error}"]
        try:
            Compute.chosen(self.device, self.threads, ranks)
        except (ValueError, RuntimeError) as error:
            found.append(f"--device: {error}")
        return found


def main() -> None:
    """Serves until told to stop; with the word plan, says what a stage would need in memory."""
    if sys.argv[1:2] == ["plan"]:
        from services.trainer.plan_command import print_plan

        raise SystemExit(print_plan(sys.argv[2:]))
    settings = parse_settings(TrainerSettings, "python -m services.trainer")
    # After the settings, so that a fault in them is told at once: torch takes seconds to import.
    from services.logs import set_up_logs
    from services.server import Host, run
    from services.trainer.device import Compute
    from services.trainer.gang import Gang, place_of, start_others
    from services.trainer.service import TrainerServicer
    from services.trainer.trainer import Trainer

    ranks = place_of(dict(os.environ), settings.ranks, settings.rank_timeout)
    compute = Compute.chosen(settings.device, settings.threads, ranks, settings.activation_checkpointing)
    if not ranks.leads:
        set_up_logs(settings.log_format, logging.WARNING)
        Gang(Trainer(compute)).follow(settings.until_stdin_closes)
    children = start_others(ranks)

    def build(host: Host) -> TrainerServicer:
        return TrainerServicer(host, compute, children)

    run(SERVICE, build, settings)


if __name__ == "__main__":
    main()
