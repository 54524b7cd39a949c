"""What the trainer is told about an algorithm, field by field as in protos/trueline/v1/trainer.proto.

A test compares the names; total_rounds and total_updates follow from the stage.
"""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from orchestrator.recipe_settings import (
    Count,
    CountOrZero,
    NotNegative,
    OptimizerSettings,
    Positive,
    Settings,
    Share,
)


class PpoAlgorithm(Settings):
    """Proximal policy optimisation (Schulman et al. 2017; Ziegler et al. 2019), as the trainer runs it."""

    policy_optimizer: OptimizerSettings
    """The policy's AdamW."""
    critic_optimizer: OptimizerSettings
    """The critic's AdamW."""
    epochs: Count = 4
    """Passes over a round's rollouts."""
    minibatches: Count = 1
    """Optimizer updates in each pass."""
    micro_batch_size: Count = 64
    """Sequences in one forward pass; changes memory and speed, not the result."""
    critic_warmup_rounds: CountOrZero = 0
    """First rounds that train the critic only, so that a fresh critic does not mislead the policy."""
    gamma: Share = 1.0
    """Discount per token; 1 since a response is one short episode."""
    gae_lambda: Share = 0.95
    """Lambda of generalised advantage estimation."""
    clip_range: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """The probability ratio stays within 1 +/- this."""
    dual_clip: NotNegative = 3.0
    """For a negative advantage A the objective is at least this times A (Ye et al. 2020); 0 is off."""
    value_clip_range: NotNegative = 0.2
    """A new value stays within this of the old one; 0 is off."""
    value_coefficient: Positive = 0.1
    """Weight of the value loss."""
    entropy_coefficient: NotNegative = 0.0
    """Weight of the entropy bonus; 0 is none."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    """Which per-token estimate of the KL to the reference is taken from the reward."""
    kl_coefficient: NotNegative = 0.05
    """Weight of that KL, at the start where a target is set."""
    kl_target: NotNegative = 0.0
    """Nats per sequence an adaptive controller aims at (Ziegler et al. 2019); 0 keeps it fixed."""
    kl_horizon: Positive = 10000.0
    """Episodes over which the adaptive controller moves."""
    kl_budget_soft: NotNegative = 0.0
    """Nats per sequence from which on a warning is given; 0 is off."""
    kl_budget_hard: NotNegative = 0.0
    """Nats per sequence at which training stops for good and goes back to the last good version; 0 is off.
    The last version is measured too, on one more batch, but not where sampling has top_p or top_k."""
    missing_end_penalty: NotNegative = 1.0
    """Taken from the score of a response that was cut off by the length limit."""
    score_clip: NotNegative = 0.0
    """Normalised scores are held within +/- this; 0 is off."""
    whiten_rewards: bool = False
    """Divides rewards by their spread over the batch, keeping the mean."""
    whiten_advantages: bool = True
    """Gives the advantages of a batch mean 0 and spread 1."""
    importance_cap: NotNegative = 2.0
    """Cap on the weight that corrects sampler-trainer mismatch (truncated importance sampling); 0 is off."""
    max_missing_share: Share = 0.1
    """Share of a round's scores that may be missing; above it the round stops."""

    @field_validator("dual_clip")
    @classmethod
    def _off_or_above_one(cls, value: float) -> float:
        if 0 < value <= 1:
            raise ValueError(f"must be 0 (off) or above 1, is {value}")
        return value

    @model_validator(mode="after")
    def _soft_budget_below_hard(self) -> "PpoAlgorithm":
        if 0 < self.kl_budget_hard < self.kl_budget_soft:
            raise ValueError(
                f"kl_budget_soft must be at most {self.kl_budget_hard:g}, is {self.kl_budget_soft:g}"
            )
        return self

    @model_validator(mode="after")
    def _controller_can_move(self) -> "PpoAlgorithm":
        if self.kl_target and not self.kl_coefficient:
            raise ValueError("kl_coefficient must be above 0 where kl_target is set: it moves by factors")
        return self


REFERENCE_FREE = ("orpo", "simpo")  # compare with no reference
MISMATCHED = ("kto",)  # read responses to prompts they do not answer, which only the trainer's own copy can
SMOOTHED = ("cdpo", "robust_dpo")
SOFT = ("soft_dpo", "gdpo")  # take a tie as it is; the others have a pair be decided


class PreferenceAlgorithm(Settings):
    """Learning from pairs without a reward model, as the trainer does it; see docs/preferences.md."""

    optimizer: OptimizerSettings
    """AdamW and its schedule over the whole stage."""
    epochs: Count = 1
    """Passes over a step's pairs."""
    minibatch_size: Count
    """Pairs in one optimizer update."""
    micro_batch_size: Annotated[int, Field(ge=2, le=2**31 - 1)] = 64
    """Sequences in one forward pass, two to a pair; changes memory and speed, not the result."""
    max_tokens: Count
    """Tokens of prompt and response at most; a pair with a longer one is left out and counted."""
    loss: Literal[
        "dpo",
        "dpo_length_normalised",
        "soft_dpo",
        "cdpo",
        "robust_dpo",
        "gdpo",
        "hinge",
        "ipo",
        "ipo_length_normalised",
        "kto",
        "orpo",
        "simpo",
    ] = "dpo"
    """Which loss; soft_dpo and gdpo take a label's probability as it is, the others its likelier side."""
    beta: Positive = 0.1
    """Strength of the implicit reward: more keeps the policy nearer its reference. For orpo the weight of the
    odds ratio."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """For cdpo and robust_dpo: the share of labels taken to be wrong."""
    simpo_margin: NotNegative = 0.0
    """For simpo: by how much the better response has to win."""
    kto_desirable_weight: Positive = 1.0
    """For kto: weight of the better responses."""
    kto_undesirable_weight: Positive = 1.0
    """For kto: weight of the others."""
    nll_coefficient: NotNegative = 0.0
    """Weight of the better response's negative log-likelihood per token; 0 is none."""
    temperature: Positive = 1.0
    """Divides the logits before every log-prob; in a dpo stage that of its sampling."""
    masked_tokens: list[Annotated[str, Field(min_length=1)]] = []
    """Tokens of the trained model, such as its end of text, that bear no loss in responses."""
    max_missing_share: Share = 0.1
    """Share of a batch's preferences that may be missing, abstentions included; above it the stage stops."""

    @property
    def compares(self) -> bool:
        """True where the loss has a reference."""
        return self.loss not in REFERENCE_FREE

    @property
    def mismatches(self) -> bool:
        """True where the trainer has to hold the reference itself."""
        return self.loss in MISMATCHED

    @property
    def takes_ties(self) -> bool:
        """True where a pair whose responses are equally good is one to learn from."""
        return self.loss in SOFT

    @model_validator(mode="after")
    def _takes_what_its_loss_takes(self) -> "PreferenceAlgorithm":
        if self.label_smoothing and self.loss not in SMOOTHED:
            raise ValueError(
                f"label_smoothing must be 0: {self.loss} takes none; {' and '.join(SMOOTHED)} do"
            )
        if self.nll_coefficient and self.loss == "orpo":
            raise ValueError("nll_coefficient must be 0: orpo has its own likelihood term")
        if self.simpo_margin and self.loss != "simpo":
            raise ValueError(f"simpo_margin must be 0: {self.loss} takes none")
        return self
