"""What a refresh is made of: the stages that a stage of rounds has within it, and their settings.

    stages:
      reward: {kind: reward, ...}
      ppo: {kind: ppo, rounds: 12, refresh: {every: 5, reward: reward, label: ...}}

    refreshes_of(recipe, "ppo")
        [Refresh(5, "ppo-refresh-000005", CollectStage(...), {"ppo-refresh-000005-reward": RewardStage(...)}),
         Refresh(10, ...)]

They are stages of their own in the ledger, as durable as any, and stand at their parent's position.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.recipe_rounds import OnlineStage, PpoStage
from orchestrator.recipe_stages import CollectStage, RewardStage

if TYPE_CHECKING:
    from orchestrator.ledger import Ledger
    from orchestrator.recipe import Recipe


@dataclass(frozen=True)
class Refresh:
    """One refresh: the round that it comes behind, what it collects, and the reward stages it repeats."""

    behind: int
    name: str
    collect: CollectStage
    rewards: dict[str, RewardStage]

    @property
    def stages(self) -> dict[str, CollectStage | RewardStage]:
        """In the order in which they are done."""
        return {self.name: self.collect, **self.rewards}


def refreshes_of(recipe: "Recipe", name: str) -> list[Refresh]:
    """The refreshes that a stage of rounds plans; none for another kind of stage."""
    settings = recipe.stages[name]
    if not isinstance(settings, OnlineStage) or settings.refresh is None:
        return []
    repeated = repeated_stages(dict(recipe.stages), settings.refresh.reward)
    found = []
    for number in settings.refresh_rounds:
        own = f"{name}-refresh-{number:06d}"
        rewards = {f"{own}-{each}": stage for each, stage in repeated.items()}
        found.append(Refresh(number, own, collect_stage(own, settings), rewards))
    return found


def repeated_stages(stages: dict[str, Any], name: str) -> dict[str, RewardStage]:
    """The reward stage of that name, or those of its members."""
    return {
        each: stage
        for each, stage in stages.items()
        if isinstance(stage, RewardStage)
        and (each == name or (stage.member is not None and each == f"{name}-{stage.member.number}"))
    }


def collect_stage(name: str, settings: OnlineStage) -> CollectStage:
    """How a refresh samples and labels: by the rounds' own policy and sampling."""
    refresh = settings.refresh
    assert refresh is not None
    return CollectStage(
        kind="collect",
        policy=settings.output,
        prompts=settings.prompts,
        prompt_limit=refresh.prompts,
        samples_per_prompt=refresh.samples_per_prompt,
        prompts_per_chunk=settings.prompts_per_chunk,
        sampling=settings.sampling,
        too_long=settings.too_long,
        label=refresh.label,
        max_missing_share=refresh.max_missing_share,
        held_out_share=refresh.held_out_share,
        output=name,
    )


def all_stages(recipe: "Recipe") -> dict[str, Any]:
    """The recipe's stages, each with those within it behind it."""
    found: dict[str, Any] = {}
    for name, settings in recipe.stages.items():
        found[name] = settings
        for refresh in refreshes_of(recipe, name):
            found.update(refresh.stages)
    return found


def collected_for(recipe: "Recipe", name: str) -> list[str]:
    """The collections that a repeated reward stage learns from, in order: its own, then the fresh ones.

    collected_for(recipe, "ppo-refresh-000010-reward")
        ["comparisons", "ppo-refresh-000005", "ppo-refresh-000010"]

    Fresh are also those of earlier stages that refreshed the same reward model.
    """
    fresh: dict[str, list[str]] = {}
    for parent, settings in recipe.stages.items():
        for refresh in refreshes_of(recipe, parent):
            assert isinstance(settings, OnlineStage) and settings.refresh is not None
            so_far = fresh.setdefault(settings.refresh.reward, [])
            so_far.append(refresh.name)
            if name in refresh.rewards:
                return [refresh.rewards[name].comparisons, *so_far]
    return []


def version_before(recipe: "Recipe", ledger: "Ledger", name: str, model: str) -> dict[str, Any] | None:
    """The newest version of a model that none of a stage's own refreshes made: what the stage began from.

    None where the run has made no version of it.
    """
    own = {each for refresh in refreshes_of(recipe, name) for each in refresh.stages}
    made = [row for row in ledger.all_versions() if row["model"] == model and row["stage"] not in own]
    return max(made, key=lambda row: int(row["number"]), default=None)


def critics_needed(recipe: "Recipe", ledger: "Ledger") -> set[tuple[str, int]]:
    """(model, version) from which stages that are not finished begin their critics, after every restart.

    Their own refreshes make newer ones, and would push them out of what retention keeps.
    """
    needed = set()
    for name, settings in recipe.stages.items():
        if not isinstance(settings, PpoStage) or settings.critic is None or settings.refresh is None:
            continue
        row = ledger.stage(name)
        version = version_before(recipe, ledger, name, settings.critic)
        if version is not None and (row is None or row["status"] != "finished"):
            needed.add((settings.critic, int(version["number"])))
    return needed
