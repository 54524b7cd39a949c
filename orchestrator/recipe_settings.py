"""Settings that stages and services share: each field is declared, defaulted and explained here, once.

Fields of OptimizerSettings and SamplingSettings carry the names of the messages in protos/trueline/v1; a test
compares them.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator


class Settings(BaseModel):
    """A strict record: unknown keys are faults, "1" is no number, nan and infinity are none either."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


# What a field's text stands for. The recipe's checks find their fields by these marks.


@dataclass(frozen=True)
class Needs:
    """The field names an artifact: one of "causal", "reward", "comparisons" and "demonstrations"."""

    kinds: tuple[str, ...]


@dataclass(frozen=True)
class Makes:
    """The field names the artifact that the stage makes."""

    kind: str


@dataclass(frozen=True)
class NamesScorer:
    """The field (or each value of it) names a scorer of the reward service."""


@dataclass(frozen=True)
class IsPath:
    """The field is a path, in which {prepared}, {run} and {seed} are replaced; a "name" may be no path."""

    kind: Literal["file", "directory", "output", "name"]


Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]  # names become directories
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
CountOrZero = Annotated[int, Field(ge=0, le=2**31 - 1)]
Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]

CausalModel = Annotated[Name, Needs(("causal",))]
RewardModel = Annotated[Name, Needs(("reward",))]
AnyModel = Annotated[Name, Needs(("causal", "reward"))]
Comparisons = Annotated[Name, Needs(("comparisons",))]
Demonstrations = Annotated[Name, Needs(("demonstrations",))]
Scorer = Annotated[Name, NamesScorer()]
InputFile = Annotated[str, Field(min_length=1), IsPath("file")]
HUB = "hf://"
ModelPlace = Annotated[str, Field(min_length=1), IsPath("directory")]
OutputDirectory = Annotated[str, Field(min_length=1), IsPath("output")]
PathOrName = Annotated[str, Field(min_length=1), IsPath("name")]


class DataSettings(Settings):
    """Rows of a file or of a data set."""

    path: InputFile | None = None
    """A JSONL file; one whose name ends in .gz is unpacked while it is read."""
    dataset: PathOrName | None = None
    """A Hugging Face data set, by hub name or by directory; copied into the run when it starts."""
    subset: str | None = None
    """Which of a data set's configurations; null takes its only one."""
    split: str = "train"
    """Which of a data set's splits."""
    revision: str | None = None
    """Commit, tag or branch of a hub data set; null takes the newest."""
    shape: Literal["auto", "plain", "trl", "hh", "hh-text"] = "auto"
    """How rows are written (see orchestrator/shapes.py); auto looks at the first one."""
    bad_rows: CountOrZero = 0
    """Rows of the wrong shape that may be left out, each counted in the report; one more ends the run."""

    @model_validator(mode="after")
    def _one_place(self) -> "DataSettings":
        if (self.path is None) == (self.dataset is None):
            raise ValueError("give either path or dataset")
        if self.dataset is None and (self.subset is not None or self.revision is not None):
            raise ValueError("subset and revision belong to a dataset")
        return self


# A path says it all for most; the tags keep the faults of one form from being told for the other.
FILE_TAG, ROWS_TAG = "(file)", "(rows)"


def _form(value: Any) -> str:
    return ROWS_TAG if isinstance(value, dict | DataSettings) else FILE_TAG


Data = Annotated[
    Annotated[InputFile, Tag(FILE_TAG)] | Annotated[DataSettings, Tag(ROWS_TAG)], Discriminator(_form)
]


class OptimizerSettings(Settings):
    """AdamW."""

    learning_rate: Positive
    """Peak learning rate."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of the mean of gradients."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the mean of squared gradients."""
    epsilon: Positive = 1e-8
    """Added to the denominator of an update."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay; 0 is none."""
    max_gradient_norm: NotNegative = 1.0
    """The gradient is scaled down to this norm at most; 0 does not clip."""
    warmup_updates: CountOrZero = 0
    """Updates over which the rate rises from 0 to its peak."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """After warm-up the rate stays, or falls to 0 at the stage's last update in a line or a half cosine."""


class SamplingSettings(Settings):
    """How completions are drawn. Seeds derive from the run's seed, the round, the prompt and the sample."""

    temperature: Positive = 1.0
    """Divides the logits, in sampling and wherever log-probs are computed again."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Keeps the smallest set of tokens with this much probability; 1 keeps all."""
    top_k: CountOrZero = 0
    """Keeps the k likeliest tokens; 0 keeps all."""
    max_new_tokens: Count
    """Tokens of a response at most, the end of text included."""
    stop: list[Annotated[str, Field(min_length=1)]] = []
    """Texts that end a response."""

    @property
    def is_filtered(self) -> bool:
        """True where not every token can be drawn."""
        return self.top_p < 1.0 or self.top_k > 0


class SampledSettings(Settings):
    """What stages that draw completions share."""

    sampling: SamplingSettings
    """How responses are drawn."""
    too_long: Literal["refuse", "truncate", "drop"] = "refuse"
    """A prompt that leaves no room for max_new_tokens in the policy's context ends the run before anything
    is drawn, loses its oldest tokens, or is left out; the last two are counted in the report."""


class ServiceSettings(Settings):
    """One kind of service: started by the orchestrator, or running elsewhere."""

    addresses: list[Annotated[str, Field(pattern=r"^\S+:\d+$")]] = []
    """Addresses (host:port) of running services; empty starts them on this machine. kubernetes:///NAME:PORT
    stands for every pod of a Service of this namespace, followed as they come and go."""
    threads: Count = 1
    """Threads of model work in each process."""

    @field_validator("addresses")
    @classmethod
    def _one_service(cls, value: list[str]) -> list[str]:
        if len(value) > 1 and any(each.startswith("kubernetes:///") for each in value):
            raise ValueError("kubernetes:///NAME:PORT stands for all replicas, so it is the only address")
        return value


class ReplicatedSettings(ServiceSettings):
    """A service of which several may run side by side."""

    replicas: Count = 1
    """Processes to start, where they are started here."""


class TrainerSettings(ServiceSettings):
    """The trainer: one process, or several ranks of one machine that train one model together."""

    ranks: Count = 1
    """Processes that share weights and rows (FSDP2); weights repeat bit for bit for an unchanged number."""
    activation_checkpointing: bool = False
    """Computes activations again in the backward pass: less memory, more time, equal results."""


# Which numbers each way of combining scorers takes.
COMBINING_NUMBERS = {
    "mean_minus_variance": ("variance_weight",),
    "weights": ("weights",),
    "log_sigmoid": ("references",),
    "gate": ("threshold", "otherwise"),
}


class CombinedSettings(Settings):
    """One scorer made of others: an ensemble, or objectives. Parts' normalised scores are combined."""

    combine: Literal["mean", "min", "mean_minus_variance", "weights", "log_sigmoid", "gate"]
    """mean, min and mean_minus_variance of an ensemble's members; a weighted sum; the sum of
    log sigmoid(score - reference), by which all must hold; or the first part where the second opens it."""
    parts: Annotated[list[Name], Field(min_length=2)]
    """The scorers that it is made of: learned ones, rules, or combined ones that stand before it."""
    variance_weight: NotNegative | None = None
    """mean_minus_variance: the weight of the members' population variance (Coste et al.: 0.1 for PPO)."""
    weights: list[float] | None = None
    """weights: one for each part."""
    references: list[float] | None = None
    """log_sigmoid: the score of each part from which on more of it counts little."""
    threshold: float | None = None
    """gate: the second part's score from which on the first one counts."""
    otherwise: float | None = None
    """gate: the score where the second part's is lower."""

    @model_validator(mode="after")
    def _numbers_belong(self) -> "CombinedSettings":
        wanted = COMBINING_NUMBERS.get(self.combine, ())
        for name in sorted({name for names in COMBINING_NUMBERS.values() for name in names}):
            if (getattr(self, name) is not None) != (name in wanted):
                raise ValueError(
                    f"{name} {'is required by' if name in wanted else 'is not for'} {self.combine}"
                )
        for name in ("weights", "references"):
            numbers = getattr(self, name)
            if numbers is not None and len(numbers) != len(self.parts):
                raise ValueError(f"{name} must hold {len(self.parts)} numbers, one for each part")
        if self.combine == "gate" and len(self.parts) != 2:
            raise ValueError("gate takes two parts: the score, and the scorer that opens it")
        if len(set(self.parts)) < len(self.parts):
            raise ValueError("every part may be named once")
        return self


class RewardSettings(ReplicatedSettings):
    """The reward service and the scorers it hosts."""

    learned: list[Name] = []
    """Scorers that are models: each is the name of a reward model that the recipe names or makes."""
    rules: dict[Name, Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]] = {}
    """Scorers that are functions of prompt and response, as "module:function"."""
    combined: dict[Name, CombinedSettings] = {}
    """Scorers made of others: ensembles of reward models, or several objectives at once."""

    @model_validator(mode="after")
    def _parts_stand_before(self) -> "RewardSettings":
        known = {*self.learned, *self.rules}
        for name, combined in self.combined.items():
            missing = [part for part in combined.parts if part not in known]
            if missing:
                raise ValueError(f"combined.{name}: no scorer {missing[0]!r} before it")
            known.add(name)
        return self

    @model_validator(mode="after")
    def _each_name_once(self) -> "RewardSettings":
        names = [*self.learned, *self.rules, *self.combined]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"scorer names must differ, given twice: {', '.join(twice)}")
        return self


class JudgeSettings(ReplicatedSettings):
    """The judge service: a constitution, and the model or endpoint that reads it."""

    constitution: Annotated[str, Field(min_length=1)] | None = None
    """The constitution, a YAML file; needed where the service is started here."""
    model: Name | None = None
    """A causal model, which the recipe names or makes, that judges."""
    rotation: list[Name] = []
    """Further causal models that judge in turn with `model`: no policy learns to please one of them alone. In
    DPO rounds the next one judges each round; elsewhere each judges its own share of the pairs."""
    endpoint: Annotated[str, Field(pattern=r"^https?://\S+$")] | None = None
    """An OpenAI-compatible endpoint that judges instead, such as http://vllm:8000/v1."""
    endpoint_model: str | None = None
    """What the endpoint calls its model."""
    api_key_env: str | None = None
    """Environment variable that holds the endpoint's key."""
    logprobs: Literal["auto", "require", "off"] = "auto"
    """Reads an endpoint's log-probs where it gives them; requires them; or reads the text alone."""
    requests_at_once: Count = 8
    """Requests under way at the endpoint at most."""
    requests_per_minute: Positive | None = None
    """Requests a minute that begin at the endpoint, from each replica; null as many as fit. Calls for
    verdicts and scores are so small that this lets them through in time."""
    batch_rows: Count = 16
    """Questions in one forward pass of a model; with 1 no verdict depends on its neighbours by a bit."""

    @model_validator(mode="after")
    def _one_judge(self) -> "JudgeSettings":
        if self.model is not None and self.endpoint is not None:
            raise ValueError("give either model or endpoint")
        if (self.endpoint is None) != (self.endpoint_model is None):
            raise ValueError("give endpoint and endpoint_model together")
        if self.rotation and self.model is None:
            raise ValueError("rotation needs model: an endpoint's models are rotated behind the endpoint")
        if len(set(self.judges)) != len(self.judges):
            raise ValueError("rotation: each model once, and none that is `model`")
        return self

    @property
    def judges(self) -> list[str]:
        """The models that judge in turn; none where an endpoint does."""
        return [] if self.model is None else [self.model, *self.rotation]

    @property
    def is_whole(self) -> bool:
        """True where it says enough to start or to reach a judge."""
        local = self.constitution is not None and (self.model is not None or self.endpoint is not None)
        return bool(self.addresses) or local


class Services(Settings):
    """The services of a run."""

    policy: ReplicatedSettings = ReplicatedSettings()
    """Samples completions."""
    reference: ReplicatedSettings = ReplicatedSettings()
    """Log-probs under the frozen reference."""
    reward: RewardSettings = RewardSettings()
    """Scores responses."""
    judge: JudgeSettings = JudgeSettings()
    """Compares and revises responses by a constitution."""
    trainer: TrainerSettings = TrainerSettings()
    """Trains; always one."""

    @field_validator("trainer")
    @classmethod
    def _one_trainer(cls, value: ServiceSettings) -> ServiceSettings:
        if len(value.addresses) > 1:
            raise ValueError(f"takes one address, is given {len(value.addresses)}")
        if any(each.startswith("kubernetes:///") for each in value.addresses):
            raise ValueError("takes the address of its one pod, such as trainer-0.trainer:50054")
        return value


class Supervision(Settings):
    """How long a run waits for what is down, stuck or full. It changes no result: a resume may differ."""

    patience_seconds: Positive = 600.0
    """Seconds that work is tried again for a service, disk or file that fails it; then the run ends."""
    restarts: CountOrZero = 5
    """Restarts of one local service within the window; its next end is the run's."""
    restart_window_seconds: Positive = 600.0
    """Seconds within which restarts are counted."""
    health_seconds: Positive = 30.0
    """A local service that leaves its health check unanswered so long is killed and started again."""
    call_seconds: Positive = 600.0
    """Deadline of sampling or scoring one chunk; a local service that misses two is killed and restarted."""
    silence_seconds: Positive = 60.0
    """A step or load that gives no sign of life for so long has failed."""
    standstill_seconds: Positive = 3600.0
    """A step or load that gives signs of life but gets no further for so long has failed too."""
