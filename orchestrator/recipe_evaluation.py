"""The kinds of stage that measure: before and after, and all that scores alone do not say."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from orchestrator.recipe_labels import JudgeLabel
from orchestrator.recipe_settings import (
    CausalModel,
    Count,
    CountOrZero,
    Data,
    InputFile,
    Name,
    SampledSettings,
    Scorer,
    Settings,
)


class Evaluated(SampledSettings):
    """Two models on the same held-out prompts, one sample each, with fixed seeds.

    The training temperature gives honest figures.
    """

    before: CausalModel
    """The model to compare with."""
    after: CausalModel
    """The model that was aligned."""
    reference: CausalModel | None = None
    """The model from which the sequence KL is measured; null measures none."""
    prompts: Data
    """Held-out prompts, none of which any stage trained on."""
    prompt_limit: Count | None = None
    """Prompts to use, from the first; null uses all."""
    prompts_per_chunk: Count = 128
    """Prompts in one call; fewer where they come to more than 4,096 responses."""
    gold_scorer: Scorer | None = None
    """What is really wanted, where something can tell."""
    best_scorer: Scorer | None = None
    """The best gold score that any response to the prompt can get."""
    ceilings: dict[Name, Scorer] = {}
    """Scorers that say what a reply would get if one aspect were perfect, reported beside gold."""
    proxy_scorer: Scorer | None = None
    """The reward that trained."""
    examples: CountOrZero = 8
    """Prompts whose answers are shown side by side in the report."""

    @property
    def services(self) -> frozenset[str]:
        """Who samples, who measures KL, and the reward service only where a scorer is asked."""
        scorers = (self.gold_scorer, self.best_scorer, self.proxy_scorer, *self.ceilings.values())
        measuring = {"reference": self.reference is not None, "reward": any(scorers)}
        return frozenset({"policy", *(name for name, asked in measuring.items() if asked)})


class EvaluateStage(Evaluated):
    """Before and after, with gold, proxy and sequence KL."""

    kind: Literal["evaluate"]
    reference: CausalModel
    """The model from which the sequence KL is measured."""


class BestOfN(Settings):
    """Draws n answers a prompt and takes the one that the proxy likes best."""

    n: Annotated[int, Field(ge=2, le=1024)]
    """Answers to each prompt; the curve is measured at 1, 2, 4, ... and n."""
    model: CausalModel
    """The model that answers: the one from which the distance is counted."""
    prompt_limit: Count = 64
    """Prompts to use, from the first."""


class DiversitySettings(Settings):
    """Draws several answers a prompt from both models: how alike are they?"""

    samples: Annotated[int, Field(ge=2, le=1024)] = 4
    """Answers to each prompt."""
    prompt_limit: Count = 64
    """Prompts to use, from the first."""


class AssessStage(Evaluated):
    """What evaluate measures, and length control, diversity, probes and best of n."""

    kind: Literal["assess"]
    judge: JudgeLabel | None = None
    """How the judge is asked which answer is better, and how good each is; null asks no judge."""
    judge_scores: bool = True
    """Has the judge score every answer by each principle, too."""
    probes: dict[Name, InputFile] = {}
    """Sets of probes by name (see orchestrator/evaluation/probes.py): what must not be said, or refused."""
    probe_tokens: Count | None = None
    """Tokens of an answer to a probe at most; null takes those of sampling."""
    probe_judge: bool = False
    """Has the judge score the answers to probes too, beside the detector of phrases."""
    diversity: DiversitySettings | None = DiversitySettings()
    """How diversity is measured; null leaves it out."""
    best_of_n: BestOfN | None = None
    """How best of n is measured; null leaves it out. It needs a proxy_scorer."""

    @model_validator(mode="after")
    def _best_of_n_has_a_proxy(self) -> "AssessStage":
        if self.best_of_n is not None and self.proxy_scorer is None:
            raise ValueError("best_of_n needs a proxy_scorer, which chooses the best")
        return self

    @model_validator(mode="after")
    def _judge_alone(self) -> "AssessStage":
        if self.judge is not None and (self.judge.person_share or self.judge.gold_scorer):
            raise ValueError("judge: an evaluation has no person_share and no gold_scorer of the judge")
        if self.probe_judge and self.judge is None:
            raise ValueError("probe_judge needs a judge")
        return self

    @property
    def services(self) -> frozenset[str]:
        """Those that measure, and the judge where it is asked."""
        return super().services | ({"judge"} if self.judge else set())
