"""python -m services.trainer --threads 2"""

from __future__ import annotations

from dataclasses import dataclass

from services.settings import ServerSettings, parse_settings, setting


@dataclass(frozen=True, kw_only=True)
class TrainerSettings(ServerSettings):
    """Trains policies, critics and reward models, one step at a time."""

    device: str = setting("auto", "Where to train: cpu, cuda, cuda:1, or auto: the GPU where there is one.")

    def faults(self) -> list[str]:
        """A device that is not there."""
        from services.trainer.device import Compute

        try:
            Compute.chosen(self.device, self.threads)
        except (ValueError, RuntimeError) as error:
            return [*super().faults(), f"--device: {error}"]
        return super().faults()


def main() -> None:
    """Serves until told to stop."""
    settings = parse_settings(TrainerSettings, "python -m services.trainer")
    # After the settings, so that a fault in them is told at once: torch takes seconds to import.
    from services.server import Host, run
    from services.trainer.device import Compute
    from services.trainer.service import TrainerServicer

    compute = Compute.chosen(settings.device, settings.threads)

    def build(host: Host) -> TrainerServicer:
        return TrainerServicer(host, compute)

    run("trueline.v1.TrainerService", build, settings)


if __name__ == "__main__":
    main()
