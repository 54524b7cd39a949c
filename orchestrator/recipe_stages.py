"""The kinds of stage and what each is told. Stages pass artifacts to each other by name."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from orchestrator.recipe_evaluation import AssessStage, EvaluateStage
from orchestrator.recipe_judge import JudgeCheckStage, ReviseStage
from orchestrator.recipe_labels import Label
from orchestrator.recipe_rounds import DpoStage, PpoStage, PreferenceStage
from orchestrator.recipe_scorers import MemberSettings
from orchestrator.recipe_settings import (
    AnyModel,
    CausalModel,
    Comparisons,
    Count,
    CountOrZero,
    Data,
    Demonstrations,
    Makes,
    Name,
    NotNegative,
    OptimizerSettings,
    OutputDirectory,
    Positive,
    SampledSettings,
    Scorer,
    Settings,
    Share,
)


class _Supervised(Settings):
    """What pretrain and sft share."""

    services: ClassVar[frozenset[str]] = frozenset({"trainer"})

    init: CausalModel
    """The model to start from."""
    output: Annotated[Name, Makes("causal")]
    """The name under which the trained model is published."""
    data: Data | None = None
    """Rows of {"messages": [...]} or {"text": "..."}, or of another shape."""
    epochs: Count = 1
    """Passes over the data."""
    rows_per_step: Count = 1024
    """Rows sent to the trainer in one call; a crash loses at most one call's work."""
    minibatch_size: Count
    """Sequences in one optimizer update."""
    micro_batch_size: Count
    """Sequences in one forward pass; changes memory and speed, not the result."""
    max_tokens: Count
    """Tokens of a sequence at most; a longer one is left out and counted."""
    checkpoint_every: CountOrZero = 4
    """Steps between checkpoints of the trainer; after a crash the steps since are replayed. 0 writes none."""
    optimizer: OptimizerSettings
    """AdamW and its schedule over the whole stage."""

    @model_validator(mode="after")
    def _step_holds_a_minibatch(self) -> "_Supervised":
        if self.rows_per_step < self.minibatch_size:
            raise ValueError(f"rows_per_step must be at least {self.minibatch_size}, is {self.rows_per_step}")
        if self.data is None and getattr(self, "demonstrations", None) is None:
            raise ValueError("data is required")
        return self


class PretrainStage(_Supervised):
    """Next-token training on whole texts or conversations."""

    kind: Literal["pretrain"]
    loss_on: Literal["all", "assistant", "last"] = "all"
    """Which tokens bear loss: every one, the assistant's, or those of the last message."""


class SftStage(_Supervised):
    """Supervised fine-tuning on demonstrations: of files, of a stage, or of both together."""

    kind: Literal["sft"]
    demonstrations: Demonstrations | None = None
    """Demonstrations that an earlier stage made, such as revisions."""
    loss_on: Literal["all", "assistant", "last"] = "assistant"
    """Which tokens bear loss: the assistant's, those of the last message, or every one."""


class CollectStage(SampledSettings):
    """Samples several responses to each prompt and has them compared."""

    kind: Literal["collect"]
    policy: CausalModel
    """The model that answers."""
    prompts: Data
    """Rows of {"prompt_id": "...", "messages": [...]} or {"prompt_id": "...", "text": "..."}, or of another
    shape."""
    prompt_limit: Count | None = None
    """Prompts to use, from the first; null uses all."""
    samples_per_prompt: Annotated[int, Field(ge=2, le=1024)] = 4
    """Responses to each prompt."""
    prompts_per_chunk: Count = 64
    """Prompts in one call; fewer where they come to more than 4,096 responses."""
    label: Label
    """Who compares."""
    max_missing_share: Share = 0.1
    """Share of pairs whose label failed, ties and other abstentions apart; above it the run stops."""
    held_out_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of prompts whose comparisons never train: the reward model is measured on them."""
    output: Annotated[Name, Makes("comparisons")]
    """The name of the comparisons."""

    @property
    def services(self) -> frozenset[str]:
        """The policy, and who compares."""
        return frozenset({"policy"}) | self.label.services


class ComparisonsStage(Settings):
    """Imports comparisons that people or others have made."""

    services: ClassVar[frozenset[str]] = frozenset()

    kind: Literal["comparisons"]
    data: Data
    """Rows of a prompt (messages or text), chosen and rejected, or of another shape."""
    source: Name = "person"
    """Who compared, for the ledger."""
    held_out_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of prompts whose comparisons never train; prompts with the same first message stay together."""
    held_out_data: Data | None = None
    """Comparisons that never train, in place of a share of the others."""
    output: Annotated[Name, Makes("comparisons")]
    """The name of the comparisons."""


class NormalisationSettings(Settings):
    """A gain and a bias that give the reward model's scores of SFT samples a known mean and spread."""

    samples: Annotated[int, Field(ge=2, le=2**31 - 1)] = 256
    """Responses to fit on."""
    target_mean: float = 0.0
    """What their normalised scores average."""
    target_stddev: Positive = 1.0
    """What their normalised scores spread."""
    length_controlled: bool = False
    """Takes out of a score what the response's length explains: slope x (tokens - their mean), the slope
    fitted by least squares on the same responses."""


class RewardStage(Settings):
    """Trains a reward model from comparisons (Bradley-Terry)."""

    kind: Literal["reward"]
    init: CausalModel
    """The model whose body it starts from; the scalar head is new."""
    comparisons: Comparisons
    """What it learns from."""
    comparison_limit: Count | None = None
    """Training comparisons to use; null uses all. Few make a proxy that is easily hacked."""
    output: Annotated[Name, Makes("reward")]
    """The name under which the reward model is published."""
    epochs: Count = 1
    """Passes over the comparisons; more than one overfits soon."""
    rows_per_step: Count = 256
    """Prompts sent to the trainer in one call, each with all its responses."""
    minibatch_size: Count
    """Prompts, each with all its responses, in one optimizer update."""
    micro_batch_size: Count
    """Sequences in one forward pass."""
    max_tokens: Count
    """Tokens of prompt and response at most; a longer one is left out and counted."""
    centering_coefficient: NotNegative = 0.01
    """Weight of the squared mean of a pair's rewards, which holds scores near 0 (Eisenstein et al. 2023)."""
    checkpoint_every: CountOrZero = 4
    """Steps between checkpoints of the trainer; after a crash the steps since are replayed. 0 writes none."""
    optimizer: OptimizerSettings
    """AdamW and its schedule over the whole stage."""
    normalisation: NormalisationSettings = NormalisationSettings()
    """How scores are normalised; kept in the model's manifest."""
    agreement_scorer: Scorer | None = None
    """A rule whose order of held-out pairs is compared with the model's; null measures none."""
    members: Annotated[int, Field(ge=2, le=64)] | None = None
    """Trains so many models in place of one, by stages STAGE-1, STAGE-2, ... that make OUTPUT-1, OUTPUT-2
    and so on, for services.reward.combined to make an ensemble of; seeds differ, and data by `leave_out`."""
    leave_out: bool = True
    """With `members`: each leaves out its own share of the training prompts."""
    member: MemberSettings | None = None
    """Which member of an ensemble this stage trains; `members` writes it."""

    @property
    def services(self) -> frozenset[str]:
        """The reward service only where a rule of its own is asked."""
        return frozenset({"trainer"} if self.agreement_scorer is None else {"trainer", "reward"})

    @model_validator(mode="after")
    def _step_holds_a_minibatch(self) -> "RewardStage":
        if self.rows_per_step < self.minibatch_size:
            raise ValueError(f"rows_per_step must be at least {self.minibatch_size}, is {self.rows_per_step}")
        return self


class ExportStage(Settings):
    """Copies a model out as a plain Hugging Face directory with a model card."""

    services: ClassVar[frozenset[str]] = frozenset()

    kind: Literal["export"]
    model: AnyModel
    """The model to copy."""
    directory: OutputDirectory
    """Where to; must be empty or not exist."""


Stage = Annotated[
    PretrainStage
    | SftStage
    | CollectStage
    | ComparisonsStage
    | RewardStage
    | PpoStage
    | DpoStage
    | PreferenceStage
    | ReviseStage
    | JudgeCheckStage
    | EvaluateStage
    | AssessStage
    | ExportStage,
    Field(discriminator="kind"),
]

STAGE_KINDS: dict[str, type[Settings]] = {
    "pretrain": PretrainStage,
    "sft": SftStage,
    "collect": CollectStage,
    "comparisons": ComparisonsStage,
    "reward": RewardStage,
    "ppo": PpoStage,
    "dpo": DpoStage,
    "preference": PreferenceStage,
    "revise": ReviseStage,
    "judge_check": JudgeCheckStage,
    "evaluate": EvaluateStage,
    "assess": AssessStage,
    "export": ExportStage,
}
