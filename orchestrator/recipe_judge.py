"""Stages that ask the judge to write, or about what is known already."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from orchestrator.recipe_labels import JudgeLabel
from orchestrator.recipe_settings import (
    CausalModel,
    Count,
    CountOrZero,
    Data,
    Makes,
    Name,
    NotNegative,
    SampledSettings,
    Settings,
    Share,
)


class WritingSettings(Settings):
    """How the judge writes."""

    temperature: NotNegative = 0.0
    """Divides its logits; 0 takes the likeliest token."""
    max_new_tokens: Count
    """Tokens of one text at most; a revision that needs more is dropped."""


class ReviseStage(SampledSettings):
    """Critique and revision by principles (Bai et al. 2022, section 3): demonstrations for an sft stage."""

    services: ClassVar[frozenset[str]] = frozenset({"policy", "judge"})

    kind: Literal["revise"]
    policy: CausalModel
    """The model whose responses are revised."""
    prompts: Data
    """Prompts to which it may well answer badly."""
    prompt_limit: Count | None = None
    """Prompts to use, from the first; null uses all."""
    samples_per_prompt: Annotated[int, Field(ge=1, le=1024)] = 1
    """Responses to each of them."""
    prompts_per_chunk: Count = 64
    """Prompts in one call to the policy service, whose responses are revised together; fewer where these are
    more than 1,024."""
    principles: list[str] = []
    """Only principles of these names; empty takes all. One is drawn by weight for each response and round, of
    those that have a text for all that the stage writes by it."""
    tags: list[str] = []
    """Only principles with one of these tags; empty takes all."""
    rounds: Annotated[int, Field(ge=1, le=64)] = 1
    """Times that a response is criticised and revised, each time what the time before made of it."""
    critique: bool = True
    """Whether a critique is written first; without, the revision follows the principle alone."""
    critique_writing: WritingSettings | None = None
    """How critiques are written; null as revisions."""
    writing: WritingSettings
    """How revisions are written."""
    max_missing_share: Share = 0.1
    """Share of responses about which the judge could not be asked, empty and withheld answers apart; above it
    the run stops."""
    output: Annotated[Name, Makes("demonstrations")]
    """The name of the demonstrations: each prompt with its last revision."""


class JudgeCheckStage(Settings):
    """Asks the judge about pairs whose answer is known, and reports how often it is right."""

    kind: Literal["judge_check"]
    data: Data
    """Comparisons, each with the `principle` that it is to be judged by; without, as the label says."""
    limit: Count | None = None
    """Comparisons to ask about, from the first; null asks about all."""
    label: JudgeLabel
    """How the judge is asked."""
    max_missing_share: Share = 0.1
    """Share of pairs whose label failed, ties and other abstentions apart; above it the run stops."""
    examples: CountOrZero = 4
    """Wrong answers that the report shows."""

    @property
    def services(self) -> frozenset[str]:
        """The judge."""
        return self.label.services
