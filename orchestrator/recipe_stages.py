"""The kinds of stage and what each is told. Stages pass artifacts to each other by name."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from orchestrator.recipe_labels import JudgeLabel, Label
from orchestrator.recipe_scorers import MemberSettings
from orchestrator.recipe_settings import (
    AnyModel,
    CausalModel,
    Comparisons,
    Count,
    CountOrZero,
    Data,
    InputFile,
    Makes,
    Name,
    NotNegative,
    OptimizerSettings,
    OutputDirectory,
    Positive,
    PpoAlgorithm,
    RewardModel,
    SamplingSettings,
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
    data: Data
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
        return self


class PretrainStage(_Supervised):
    """Next-token training on whole texts or conversations."""

    kind: Literal["pretrain"]
    loss_on: Literal["all", "assistant", "last"] = "all"
    """Which tokens bear loss: every one, the assistant's, or those of the last message."""


class SftStage(_Supervised):
    """Supervised fine-tuning on demonstrations."""

    kind: Literal["sft"]
    loss_on: Literal["all", "assistant", "last"] = "assistant"
    """Which tokens bear loss: the assistant's, those of the last message, or every one."""


class SampledSettings(Settings):
    """What stages that draw completions share."""

    sampling: SamplingSettings
    """How responses are drawn."""
    too_long: Literal["refuse", "truncate", "drop"] = "refuse"
    """A prompt that leaves no room for max_new_tokens in the policy's context ends the run before anything
    is drawn, loses its oldest tokens, or is left out; the last two are counted in the report."""


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
    """Prompts in one call."""
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


class PpoStage(SampledSettings):
    """Online PPO: sample, score, train, publish, and again."""

    services: ClassVar[frozenset[str]] = frozenset({"policy", "reference", "reward", "trainer"})

    kind: Literal["ppo"]
    policy: CausalModel
    """The model that is trained."""
    reference: CausalModel
    """The frozen model that the policy is kept near."""
    critic: RewardModel | None = None
    """The reward model that the critic starts from; null starts it from the policy with a new head."""
    scorer: Scorer
    """The scorer whose normalised scores are the reward."""
    gold_scorer: Scorer | None = None
    """A scorer that is measured on held-out prompts beside the reward, and never trains."""
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
    samples_per_prompt: Count = 1
    """Responses to each of them."""
    prompts_per_chunk: Count = 64
    """Prompts in one call to the policy service."""
    checkpoint_every: Count = 10
    """Rounds between checkpoints of the trainer; after a crash the rounds since are replayed."""
    output: Annotated[Name, Makes("causal")]
    """The name under which the policy is published."""
    algorithm: PpoAlgorithm
    """What the trainer does with a round."""

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> "PpoStage":
        if self.gold_scorer is not None and self.gold_prompts is None:
            raise ValueError("gold_prompts is required where gold_scorer is given")
        rollouts = self.prompts_per_round * self.samples_per_prompt
        if self.algorithm.minibatches > rollouts:
            raise ValueError(f"algorithm.minibatches must be at most {rollouts} (the round's rollouts)")
        return self


class Evaluated(SampledSettings):
    """Two models on the same held-out prompts, one sample each, with fixed seeds.

    The training temperature gives honest figures.
    """

    before: CausalModel
    """The model to compare with."""
    after: CausalModel
    """The model that was aligned."""
    reference: CausalModel
    """The model from which the sequence KL is measured."""
    prompts: Data
    """Held-out prompts, none of which any stage trained on."""
    prompt_limit: Count | None = None
    """Prompts to use, from the first; null uses all."""
    prompts_per_chunk: Count = 128
    """Prompts in one call."""
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


class EvaluateStage(Evaluated):
    """Before and after, with gold, proxy and sequence KL."""

    services: ClassVar[frozenset[str]] = frozenset({"policy", "reference", "reward"})

    kind: Literal["evaluate"]


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
        """Who samples and measures KL, and whoever decides."""
        scorers = (self.gold_scorer, self.best_scorer, self.proxy_scorer, *self.ceilings.values())
        scoring = {"reward"} if any(scorers) else set()
        return frozenset({"policy", "reference"} | scoring | ({"judge"} if self.judge else set()))


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
    "evaluate": EvaluateStage,
    "assess": AssessStage,
    "export": ExportStage,
}
