"""Who says which of two responses is better: the kinds of label that stages may ask for."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from orchestrator.recipe_settings import Count, NotNegative, Positive, Scorer, Settings, Share


class SimulatedLabel(Settings):
    """Draws preferences with Bradley-Terry noise: P(i over j) = sigmoid(scale x (score_i - score_j))."""

    services: ClassVar[frozenset[str]] = frozenset({"reward"})

    kind: Literal["simulated"]
    scorer: Scorer
    """Whose scores decide."""
    scale: Positive = 2.0
    """Higher is less noise."""


class ScorerLabel(Settings):
    """The response with the higher score is better; scores too near each other say nothing."""

    services: ClassVar[frozenset[str]] = frozenset({"reward"})

    kind: Literal["scorer"]
    scorer: Scorer
    """Whose normalised scores decide."""
    min_margin: NotNegative = 0.0
    """Scores that differ by no more than this are a tie, which is left out."""


class PersonLabel(Settings):
    """People decide, by `python -m orchestrator label RUN`: the run stops until they have."""

    services: ClassVar[frozenset[str]] = frozenset()

    kind: Literal["person"]


class JudgeLabel(Settings):
    """The judge decides by its constitution, asked in both orders; where it abstains there is no label."""

    kind: Literal["judge"]
    choice: Literal["sampled", "ensemble"] = "sampled"
    """One principle drawn for each pair, by weight; or all of them, averaged by weight."""
    principles: list[str] = []
    """Only principles of these names; empty takes all."""
    tags: list[str] = []
    """Only principles with one of these tags; empty takes all."""
    tie_band: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """A probability within this of 0.5 is a tie, which is left out."""
    disagreement_tolerance: Share = 0.0
    """The two orders may prefer different responses where they differ by no more than this; 0 allows none."""
    min_option_mass: Share = 0.05
    """The answer options' probability together at least; below, the answer is unparsable."""
    chain_of_thought: bool = False
    """Lets the judge reason first; its probabilities are then held within 0.4 to 0.6."""
    reasoning_tokens: Count = 256
    """Tokens of that reasoning at most."""
    pairs_per_call: Annotated[int, Field(ge=1, le=1024)] = 64
    """Pairs in one call at most; what is answered is durable before the next call."""
    person_share: Share = 0.0
    """Share of the pairs that people label instead, by `python -m orchestrator label RUN`."""
    gold_scorer: Scorer | None = None
    """A scorer that is asked about the same pairs: it measures the judge, and never trains."""

    @property
    def services(self) -> frozenset[str]:
        """The reward service only where gold measures the judge."""
        return frozenset({"judge"} if self.gold_scorer is None else {"judge", "reward"})

    @model_validator(mode="after")
    def _each_principle_once(self) -> "JudgeLabel":
        if len(set(self.principles)) != len(self.principles):
            raise ValueError("principles: each name once")
        return self


Label = Annotated[
    SimulatedLabel | ScorerLabel | PersonLabel | JudgeLabel,
    Field(discriminator="kind"),
]
