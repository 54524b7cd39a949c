"""Stages that learn from preferences: rounds of PPO and DPO, and offline learning from a collection."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from orchestrator.recipe_algorithms import PpoAlgorithm, PreferenceAlgorithm
from orchestrator.recipe_labels import Label, ScorerLabel
from orchestrator.recipe_settings import (
    CausalModel,
    Comparisons,
    Count,
    CountOrZero,
    Data,
    Makes,
    Name,
    NotNegative,
    RewardModel,
    SampledSettings,
    Scorer,
    Settings,
    Share,
)

LARGEST_KL_ERROR = 0.2  # of the adaptive controller: what it moves by is this much of a round at most


class RefreshSettings(Settings):
    """Trains the reward model anew every few rounds, on its comparisons and on fresh ones of the policy's own
    answers: such as no earlier comparison showed it (Ziegler et al. 2019; Bai et al. 2022)."""

    every: Count
    """Rounds between refreshes; none comes behind the last round."""
    reward: Name
    """The reward stage that is repeated, from its own `init`; of one with `members` every member."""
    prompts: Count = 256
    """Prompts that the policy answers for it, drawn anew each time."""
    samples_per_prompt: Annotated[int, Field(ge=2, le=1024)] = 4
    """Responses to each of them; every pair is compared."""
    label: Label
    """Who compares."""
    max_missing_share: Share = 0.1
    """Share of pairs whose label failed, ties and other abstentions apart; above it the run stops."""
    held_out_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of these prompts whose comparisons never train. One that was held out before stays so."""


class OnlineStage(SampledSettings):
    """What stages share that learn, round by round, from what their policy says now."""

    policy: CausalModel
    """The model that is trained."""
    reference: CausalModel
    """The frozen model that the policy is kept near."""
    gold_scorer: Scorer | None = None
    """A scorer that is measured on held-out prompts, and never trains on them."""
    gold_prompts: Data | None = None
    """Held-out prompts for that measurement."""
    gold_every: Count = 5
    """Rounds between measurements."""
    gold_limit: Count = 128
    """Held-out prompts in a measurement."""
    prompts: Data
    """Prompts, taken in order and from the first again when they end."""
    rounds: Count
    """Rounds in all."""
    prompts_per_round: Count
    """Prompts in each round."""
    samples_per_prompt: Annotated[int, Field(ge=1, le=4096)] = 1
    """Responses to each of them."""
    prompts_per_chunk: Count = 64
    """Prompts in one call to the policy service; fewer where they come to more than 4,096 responses."""
    checkpoint_every: Count = 10
    """Rounds between checkpoints of the trainer; after a crash the rounds since are replayed. On a GPU, where
    a replay gives other bits, every round has one."""
    refresh: RefreshSettings | None = None
    """Trains the reward model anew every few rounds; null never does."""
    output: Annotated[Name, Makes("causal")]
    """The name under which the policy is published."""

    @property
    def refreshing(self) -> frozenset[str]:
        """The services that refreshes ask beside those of the rounds."""
        return self.refresh.label.services if self.refresh else frozenset()

    @property
    def refresh_rounds(self) -> range:
        """The rounds behind which the reward model is refreshed: every 5 of 12 gives 5 and 10."""
        return range(self.refresh.every, self.rounds, self.refresh.every) if self.refresh else range(0)

    @model_validator(mode="after")
    def _gold_has_prompts(self) -> "OnlineStage":
        if self.gold_scorer is not None and self.gold_prompts is None:
            raise ValueError("gold_prompts is required where gold_scorer is given")
        return self


class PpoStage(OnlineStage):
    """Online PPO: sample, score, train, publish, and again."""

    kind: Literal["ppo"]
    critic: RewardModel | None = None
    """The reward model that the critic starts from; null starts it from the policy with a new head."""
    scorer: Scorer
    """The scorer whose normalised scores are the reward."""
    algorithm: PpoAlgorithm
    """What the trainer does with a round."""

    @property
    def services(self) -> frozenset[str]:
        """Those of every round, and who labels for refreshes."""
        return frozenset({"policy", "reference", "reward", "trainer"}) | self.refreshing

    @model_validator(mode="after")
    def _round_holds_minibatches(self) -> "PpoStage":
        rollouts = self.prompts_per_round * self.samples_per_prompt
        if self.algorithm.minibatches > rollouts:
            raise ValueError(f"algorithm.minibatches must be at most {rollouts} (the round's rollouts)")
        shortest = LARGEST_KL_ERROR * rollouts
        if self.algorithm.kl_target and self.algorithm.kl_horizon <= shortest:
            raise ValueError(
                f"algorithm.kl_horizon must be above {shortest:g} where kl_target is set: a fifth of the "
                "round's rollouts, so that the coefficient stays above 0"
            )
        return self


class DpoStage(OnlineStage):
    """Iterative DPO: sample, have pairs labelled, train against a fixed reference, publish, and again."""

    kind: Literal["dpo"]
    samples_per_prompt: Annotated[int, Field(ge=2, le=1024)] = 4
    """Responses to each prompt."""
    pairs_per_prompt: Count = 2
    """Pairs of different responses to each prompt that are labelled: first those that share none."""
    label: Label
    """Who says which of a pair is better. A scorer's pairs are its best against its worst, then the next."""
    min_certainty: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """A pair whose label has |2 p - 1|, for probability p, below this is left out and counted; one of exactly
    0.5 always is."""
    proxy_scorer: Scorer | None = None
    """A scorer measured beside gold on held-out prompts, such as a reward model that labels."""
    kl_budget_soft: NotNegative = 0.0
    """Nats per sequence from which on a warning is given; 0 is off."""
    kl_budget_hard: NotNegative = 0.0
    """Nats per sequence at which training stops for good and goes back to the last good version; 0 is off.
    The last version is measured too, on one more batch."""
    algorithm: PreferenceAlgorithm
    """What the trainer does with a round's pairs."""

    @property
    def services(self) -> frozenset[str]:
        """Those of every round, who labels, and the reward service only where a scorer is asked."""
        measured = self.gold_scorer is not None or self.proxy_scorer is not None
        asked = frozenset({"reward"} if measured else ()) | self.label.services
        return frozenset({"policy", "reference", "trainer"}) | asked | self.refreshing

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> "DpoStage":
        most, why = self.samples_per_prompt * (self.samples_per_prompt - 1) // 2, "the pairs"
        if isinstance(self.label, ScorerLabel):
            most, why = self.samples_per_prompt // 2, "the best against the worst, then the next,"
        if self.pairs_per_prompt > most:
            raise ValueError(
                f"pairs_per_prompt must be at most {most} ({why} of {self.samples_per_prompt} responses)"
            )
        if (self.kl_budget_soft or self.kl_budget_hard) and self.sampling.is_filtered:
            raise ValueError(
                "kl_budget_soft and kl_budget_hard must be 0 where sampling has top_p or top_k: the "
                "log-probs of filtered samples give no KL of the policy"
            )
        if self.algorithm.temperature != self.sampling.temperature:
            raise ValueError(
                f"algorithm.temperature must be sampling's, {self.sampling.temperature:g}, "
                f"is {self.algorithm.temperature:g}"
            )
        if 0 < self.kl_budget_hard < self.kl_budget_soft:
            raise ValueError(
                f"kl_budget_soft must be at most {self.kl_budget_hard:g}, is {self.kl_budget_soft:g}"
            )
        return self


class PreferenceStage(Settings):
    """Learns from a collection of comparisons without a reward model, once and offline."""

    services: ClassVar[frozenset[str]] = frozenset({"trainer"})

    kind: Literal["preference"]
    policy: CausalModel
    """The model that is trained."""
    reference: CausalModel | None = None
    """The frozen model that the policy is compared with; null for orpo and simpo, which have none."""
    comparisons: Comparisons
    """What it learns from."""
    comparison_limit: Count | None = None
    """Training comparisons to use; null uses all."""
    output: Annotated[Name, Makes("causal")]
    """The name under which the policy is published."""
    epochs: Count = 1
    """Passes over the comparisons, each in an order of its own; algorithm.epochs are passes within a step."""
    rows_per_step: Count = 256
    """Prompts sent to the trainer in one call, each with all its comparisons."""
    checkpoint_every: CountOrZero = 4
    """Steps between checkpoints of the trainer; after a crash the steps since are replayed. 0 writes none."""
    algorithm: PreferenceAlgorithm
    """What the trainer does with the pairs."""

    @model_validator(mode="after")
    def _has_the_reference_of_its_loss(self) -> "PreferenceStage":
        loss = self.algorithm.loss
        if self.algorithm.compares and self.reference is None:
            raise ValueError(f"reference is required: {loss} compares with one")
        if not self.algorithm.compares and self.reference is not None:
            raise ValueError(f"reference must be null: {loss} compares with none")
        return self
