from trueline.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ModelRole(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_ROLE_UNSPECIFIED: _ClassVar[ModelRole]
    MODEL_ROLE_TRAINED: _ClassVar[ModelRole]
    MODEL_ROLE_REWARD: _ClassVar[ModelRole]
    MODEL_ROLE_REFERENCE: _ClassVar[ModelRole]

class KlBudget(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KL_BUDGET_UNSPECIFIED: _ClassVar[KlBudget]
    KL_BUDGET_OK: _ClassVar[KlBudget]
    KL_BUDGET_WARN: _ClassVar[KlBudget]
    KL_BUDGET_STOP: _ClassVar[KlBudget]
MODEL_ROLE_UNSPECIFIED: ModelRole
MODEL_ROLE_TRAINED: ModelRole
MODEL_ROLE_REWARD: ModelRole
MODEL_ROLE_REFERENCE: ModelRole
KL_BUDGET_UNSPECIFIED: KlBudget
KL_BUDGET_OK: KlBudget
KL_BUDGET_WARN: KlBudget
KL_BUDGET_STOP: KlBudget

class GetStateRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStateResponse(_message.Message):
    __slots__ = ("incarnation", "stage", "run_id", "epoch", "step", "checkpoint", "running_request_id", "weights_sha256", "deterministic")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    RUNNING_REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_SHA256_FIELD_NUMBER: _ClassVar[int]
    DETERMINISTIC_FIELD_NUMBER: _ClassVar[int]
    incarnation: str
    stage: str
    run_id: str
    epoch: int
    step: int
    checkpoint: CheckpointLocation
    running_request_id: str
    weights_sha256: str
    deterministic: bool
    def __init__(self, incarnation: _Optional[str] = ..., stage: _Optional[str] = ..., run_id: _Optional[str] = ..., epoch: _Optional[int] = ..., step: _Optional[int] = ..., checkpoint: _Optional[_Union[CheckpointLocation, _Mapping]] = ..., running_request_id: _Optional[str] = ..., weights_sha256: _Optional[str] = ..., deterministic: bool = ...) -> None: ...

class StageModel(_message.Message):
    __slots__ = ("role", "location")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    LOCATION_FIELD_NUMBER: _ClassVar[int]
    role: ModelRole
    location: _types_pb2.ModelLocation
    def __init__(self, role: _Optional[_Union[ModelRole, str]] = ..., location: _Optional[_Union[_types_pb2.ModelLocation, _Mapping]] = ...) -> None: ...

class OptimizerSettings(_message.Message):
    __slots__ = ("learning_rate", "beta1", "beta2", "epsilon", "weight_decay", "max_gradient_norm", "warmup_updates", "schedule")
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    BETA1_FIELD_NUMBER: _ClassVar[int]
    BETA2_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_DECAY_FIELD_NUMBER: _ClassVar[int]
    MAX_GRADIENT_NORM_FIELD_NUMBER: _ClassVar[int]
    WARMUP_UPDATES_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    learning_rate: float
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    max_gradient_norm: float
    warmup_updates: int
    schedule: str
    def __init__(self, learning_rate: _Optional[float] = ..., beta1: _Optional[float] = ..., beta2: _Optional[float] = ..., epsilon: _Optional[float] = ..., weight_decay: _Optional[float] = ..., max_gradient_norm: _Optional[float] = ..., warmup_updates: _Optional[int] = ..., schedule: _Optional[str] = ...) -> None: ...

class SftSettings(_message.Message):
    __slots__ = ("optimizer", "minibatch_size", "micro_batch_size", "max_tokens", "total_updates", "loss_on")
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    MINIBATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    MICRO_BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_UPDATES_FIELD_NUMBER: _ClassVar[int]
    LOSS_ON_FIELD_NUMBER: _ClassVar[int]
    optimizer: OptimizerSettings
    minibatch_size: int
    micro_batch_size: int
    max_tokens: int
    total_updates: int
    loss_on: str
    def __init__(self, optimizer: _Optional[_Union[OptimizerSettings, _Mapping]] = ..., minibatch_size: _Optional[int] = ..., micro_batch_size: _Optional[int] = ..., max_tokens: _Optional[int] = ..., total_updates: _Optional[int] = ..., loss_on: _Optional[str] = ...) -> None: ...

class RewardModelSettings(_message.Message):
    __slots__ = ("optimizer", "minibatch_size", "micro_batch_size", "max_tokens", "total_updates", "centering_coefficient")
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    MINIBATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    MICRO_BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_UPDATES_FIELD_NUMBER: _ClassVar[int]
    CENTERING_COEFFICIENT_FIELD_NUMBER: _ClassVar[int]
    optimizer: OptimizerSettings
    minibatch_size: int
    micro_batch_size: int
    max_tokens: int
    total_updates: int
    centering_coefficient: float
    def __init__(self, optimizer: _Optional[_Union[OptimizerSettings, _Mapping]] = ..., minibatch_size: _Optional[int] = ..., micro_batch_size: _Optional[int] = ..., max_tokens: _Optional[int] = ..., total_updates: _Optional[int] = ..., centering_coefficient: _Optional[float] = ...) -> None: ...

class PpoSettings(_message.Message):
    __slots__ = ("policy_optimizer", "critic_optimizer", "total_rounds", "epochs", "minibatches", "micro_batch_size", "critic_warmup_rounds", "gamma", "gae_lambda", "clip_range", "dual_clip", "value_clip_range", "value_coefficient", "entropy_coefficient", "kl_estimator", "kl_coefficient", "kl_target", "kl_horizon", "kl_budget_soft", "kl_budget_hard", "missing_end_penalty", "score_clip", "whiten_rewards", "whiten_advantages", "importance_cap", "max_missing_share")
    POLICY_OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    CRITIC_OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    TOTAL_ROUNDS_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    MINIBATCHES_FIELD_NUMBER: _ClassVar[int]
    MICRO_BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    CRITIC_WARMUP_ROUNDS_FIELD_NUMBER: _ClassVar[int]
    GAMMA_FIELD_NUMBER: _ClassVar[int]
    GAE_LAMBDA_FIELD_NUMBER: _ClassVar[int]
    CLIP_RANGE_FIELD_NUMBER: _ClassVar[int]
    DUAL_CLIP_FIELD_NUMBER: _ClassVar[int]
    VALUE_CLIP_RANGE_FIELD_NUMBER: _ClassVar[int]
    VALUE_COEFFICIENT_FIELD_NUMBER: _ClassVar[int]
    ENTROPY_COEFFICIENT_FIELD_NUMBER: _ClassVar[int]
    KL_ESTIMATOR_FIELD_NUMBER: _ClassVar[int]
    KL_COEFFICIENT_FIELD_NUMBER: _ClassVar[int]
    KL_TARGET_FIELD_NUMBER: _ClassVar[int]
    KL_HORIZON_FIELD_NUMBER: _ClassVar[int]
    KL_BUDGET_SOFT_FIELD_NUMBER: _ClassVar[int]
    KL_BUDGET_HARD_FIELD_NUMBER: _ClassVar[int]
    MISSING_END_PENALTY_FIELD_NUMBER: _ClassVar[int]
    SCORE_CLIP_FIELD_NUMBER: _ClassVar[int]
    WHITEN_REWARDS_FIELD_NUMBER: _ClassVar[int]
    WHITEN_ADVANTAGES_FIELD_NUMBER: _ClassVar[int]
    IMPORTANCE_CAP_FIELD_NUMBER: _ClassVar[int]
    MAX_MISSING_SHARE_FIELD_NUMBER: _ClassVar[int]
    policy_optimizer: OptimizerSettings
    critic_optimizer: OptimizerSettings
    total_rounds: int
    epochs: int
    minibatches: int
    micro_batch_size: int
    critic_warmup_rounds: int
    gamma: float
    gae_lambda: float
    clip_range: float
    dual_clip: float
    value_clip_range: float
    value_coefficient: float
    entropy_coefficient: float
    kl_estimator: str
    kl_coefficient: float
    kl_target: float
    kl_horizon: float
    kl_budget_soft: float
    kl_budget_hard: float
    missing_end_penalty: float
    score_clip: float
    whiten_rewards: bool
    whiten_advantages: bool
    importance_cap: float
    max_missing_share: float
    def __init__(self, policy_optimizer: _Optional[_Union[OptimizerSettings, _Mapping]] = ..., critic_optimizer: _Optional[_Union[OptimizerSettings, _Mapping]] = ..., total_rounds: _Optional[int] = ..., epochs: _Optional[int] = ..., minibatches: _Optional[int] = ..., micro_batch_size: _Optional[int] = ..., critic_warmup_rounds: _Optional[int] = ..., gamma: _Optional[float] = ..., gae_lambda: _Optional[float] = ..., clip_range: _Optional[float] = ..., dual_clip: _Optional[float] = ..., value_clip_range: _Optional[float] = ..., value_coefficient: _Optional[float] = ..., entropy_coefficient: _Optional[float] = ..., kl_estimator: _Optional[str] = ..., kl_coefficient: _Optional[float] = ..., kl_target: _Optional[float] = ..., kl_horizon: _Optional[float] = ..., kl_budget_soft: _Optional[float] = ..., kl_budget_hard: _Optional[float] = ..., missing_end_penalty: _Optional[float] = ..., score_clip: _Optional[float] = ..., whiten_rewards: bool = ..., whiten_advantages: bool = ..., importance_cap: _Optional[float] = ..., max_missing_share: _Optional[float] = ...) -> None: ...

class PreferenceSettings(_message.Message):
    __slots__ = ("optimizer", "epochs", "minibatch_size", "micro_batch_size", "max_tokens", "total_updates", "loss", "beta", "label_smoothing", "simpo_margin", "kto_desirable_weight", "kto_undesirable_weight", "nll_coefficient", "temperature", "masked_tokens", "max_missing_share")
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    MINIBATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    MICRO_BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_UPDATES_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    BETA_FIELD_NUMBER: _ClassVar[int]
    LABEL_SMOOTHING_FIELD_NUMBER: _ClassVar[int]
    SIMPO_MARGIN_FIELD_NUMBER: _ClassVar[int]
    KTO_DESIRABLE_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    KTO_UNDESIRABLE_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    NLL_COEFFICIENT_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    MASKED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_MISSING_SHARE_FIELD_NUMBER: _ClassVar[int]
    optimizer: OptimizerSettings
    epochs: int
    minibatch_size: int
    micro_batch_size: int
    max_tokens: int
    total_updates: int
    loss: str
    beta: float
    label_smoothing: float
    simpo_margin: float
    kto_desirable_weight: float
    kto_undesirable_weight: float
    nll_coefficient: float
    temperature: float
    masked_tokens: _containers.RepeatedScalarFieldContainer[str]
    max_missing_share: float
    def __init__(self, optimizer: _Optional[_Union[OptimizerSettings, _Mapping]] = ..., epochs: _Optional[int] = ..., minibatch_size: _Optional[int] = ..., micro_batch_size: _Optional[int] = ..., max_tokens: _Optional[int] = ..., total_updates: _Optional[int] = ..., loss: _Optional[str] = ..., beta: _Optional[float] = ..., label_smoothing: _Optional[float] = ..., simpo_margin: _Optional[float] = ..., kto_desirable_weight: _Optional[float] = ..., kto_undesirable_weight: _Optional[float] = ..., nll_coefficient: _Optional[float] = ..., temperature: _Optional[float] = ..., masked_tokens: _Optional[_Iterable[str]] = ..., max_missing_share: _Optional[float] = ...) -> None: ...

class BeginStageRequest(_message.Message):
    __slots__ = ("header", "stage", "models", "output_model", "models_uri", "checkpoints_uri", "seed", "sft", "reward_model", "ppo", "preference")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_MODEL_FIELD_NUMBER: _ClassVar[int]
    MODELS_URI_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINTS_URI_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SFT_FIELD_NUMBER: _ClassVar[int]
    REWARD_MODEL_FIELD_NUMBER: _ClassVar[int]
    PPO_FIELD_NUMBER: _ClassVar[int]
    PREFERENCE_FIELD_NUMBER: _ClassVar[int]
    header: _types_pb2.CallHeader
    stage: str
    models: _containers.RepeatedCompositeFieldContainer[StageModel]
    output_model: str
    models_uri: str
    checkpoints_uri: str
    seed: int
    sft: SftSettings
    reward_model: RewardModelSettings
    ppo: PpoSettings
    preference: PreferenceSettings
    def __init__(self, header: _Optional[_Union[_types_pb2.CallHeader, _Mapping]] = ..., stage: _Optional[str] = ..., models: _Optional[_Iterable[_Union[StageModel, _Mapping]]] = ..., output_model: _Optional[str] = ..., models_uri: _Optional[str] = ..., checkpoints_uri: _Optional[str] = ..., seed: _Optional[int] = ..., sft: _Optional[_Union[SftSettings, _Mapping]] = ..., reward_model: _Optional[_Union[RewardModelSettings, _Mapping]] = ..., ppo: _Optional[_Union[PpoSettings, _Mapping]] = ..., preference: _Optional[_Union[PreferenceSettings, _Mapping]] = ...) -> None: ...

class BeginStageResponse(_message.Message):
    __slots__ = ("progress", "begun")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    BEGUN_FIELD_NUMBER: _ClassVar[int]
    progress: _types_pb2.Progress
    begun: StageBegun
    def __init__(self, progress: _Optional[_Union[_types_pb2.Progress, _Mapping]] = ..., begun: _Optional[_Union[StageBegun, _Mapping]] = ...) -> None: ...

class StageBegun(_message.Message):
    __slots__ = ("incarnation", "parameters", "critic_origin", "critic_origin_reason")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    CRITIC_ORIGIN_FIELD_NUMBER: _ClassVar[int]
    CRITIC_ORIGIN_REASON_FIELD_NUMBER: _ClassVar[int]
    incarnation: str
    parameters: int
    critic_origin: str
    critic_origin_reason: str
    def __init__(self, incarnation: _Optional[str] = ..., parameters: _Optional[int] = ..., critic_origin: _Optional[str] = ..., critic_origin_reason: _Optional[str] = ...) -> None: ...

class ExcludedRow(_message.Message):
    __slots__ = ("row", "reason", "message")
    ROW_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    row: int
    reason: str
    message: str
    def __init__(self, row: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class StepResult(_message.Message):
    __slots__ = ("step", "trained", "metrics", "excluded", "weights_sha256", "timing", "kl_budget")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    STEP_FIELD_NUMBER: _ClassVar[int]
    TRAINED_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    EXCLUDED_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_SHA256_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    KL_BUDGET_FIELD_NUMBER: _ClassVar[int]
    step: int
    trained: bool
    metrics: _containers.ScalarMap[str, float]
    excluded: _containers.RepeatedCompositeFieldContainer[ExcludedRow]
    weights_sha256: str
    timing: _types_pb2.Timing
    kl_budget: KlBudget
    def __init__(self, step: _Optional[int] = ..., trained: bool = ..., metrics: _Optional[_Mapping[str, float]] = ..., excluded: _Optional[_Iterable[_Union[ExcludedRow, _Mapping]]] = ..., weights_sha256: _Optional[str] = ..., timing: _Optional[_Union[_types_pb2.Timing, _Mapping]] = ..., kl_budget: _Optional[_Union[KlBudget, str]] = ...) -> None: ...

class SftRow(_message.Message):
    __slots__ = ("conversation", "text")
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    conversation: _types_pb2.Conversation
    text: str
    def __init__(self, conversation: _Optional[_Union[_types_pb2.Conversation, _Mapping]] = ..., text: _Optional[str] = ...) -> None: ...

class SftBatch(_message.Message):
    __slots__ = ("rows",)
    ROWS_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[SftRow]
    def __init__(self, rows: _Optional[_Iterable[_Union[SftRow, _Mapping]]] = ...) -> None: ...

class SftStepRequest(_message.Message):
    __slots__ = ("header", "inline", "artifact")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    INLINE_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    header: _types_pb2.CallHeader
    inline: SftBatch
    artifact: _types_pb2.Artifact
    def __init__(self, header: _Optional[_Union[_types_pb2.CallHeader, _Mapping]] = ..., inline: _Optional[_Union[SftBatch, _Mapping]] = ..., artifact: _Optional[_Union[_types_pb2.Artifact, _Mapping]] = ...) -> None: ...

class SftStepResponse(_message.Message):
    __slots__ = ("progress", "result")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    progress: _types_pb2.Progress
    result: StepResult
    def __init__(self, progress: _Optional[_Union[_types_pb2.Progress, _Mapping]] = ..., result: _Optional[_Union[StepResult, _Mapping]] = ...) -> None: ...

class Preference(_message.Message):
    __slots__ = ("first", "second", "probability", "margin")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    SECOND_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    first: int
    second: int
    probability: float
    margin: float
    def __init__(self, first: _Optional[int] = ..., second: _Optional[int] = ..., probability: _Optional[float] = ..., margin: _Optional[float] = ...) -> None: ...

class ComparisonGroup(_message.Message):
    __slots__ = ("prompt_id", "text", "conversation", "responses", "preferences")
    PROMPT_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    PREFERENCES_FIELD_NUMBER: _ClassVar[int]
    prompt_id: str
    text: str
    conversation: _types_pb2.Conversation
    responses: _containers.RepeatedScalarFieldContainer[str]
    preferences: _containers.RepeatedCompositeFieldContainer[Preference]
    def __init__(self, prompt_id: _Optional[str] = ..., text: _Optional[str] = ..., conversation: _Optional[_Union[_types_pb2.Conversation, _Mapping]] = ..., responses: _Optional[_Iterable[str]] = ..., preferences: _Optional[_Iterable[_Union[Preference, _Mapping]]] = ...) -> None: ...

class ComparisonBatch(_message.Message):
    __slots__ = ("groups",)
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    groups: _containers.RepeatedCompositeFieldContainer[ComparisonGroup]
    def __init__(self, groups: _Optional[_Iterable[_Union[ComparisonGroup, _Mapping]]] = ...) -> None: ...

class RewardModelStepRequest(_message.Message):
    __slots__ = ("header", "inline", "artifact", "evaluate_only")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    INLINE_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    EVALUATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    header: _types_pb2.CallHeader
    inline: ComparisonBatch
    artifact: _types_pb2.Artifact
    evaluate_only: bool
    def __init__(self, header: _Optional[_Union[_types_pb2.CallHeader, _Mapping]] = ..., inline: _Optional[_Union[ComparisonBatch, _Mapping]] = ..., artifact: _Optional[_Union[_types_pb2.Artifact, _Mapping]] = ..., evaluate_only: bool = ...) -> None: ...

class RewardModelStepResponse(_message.Message):
    __slots__ = ("progress", "result")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    progress: _types_pb2.Progress
    result: StepResult
    def __init__(self, progress: _Optional[_Union[_types_pb2.Progress, _Mapping]] = ..., result: _Optional[_Union[StepResult, _Mapping]] = ...) -> None: ...

class AnsweredPrompt(_message.Message):
    __slots__ = ("text", "conversation", "response")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    text: str
    conversation: _types_pb2.Conversation
    response: str
    def __init__(self, text: _Optional[str] = ..., conversation: _Optional[_Union[_types_pb2.Conversation, _Mapping]] = ..., response: _Optional[str] = ...) -> None: ...

class FitNormalisationRequest(_message.Message):
    __slots__ = ("header", "samples", "target_mean", "target_stddev", "length_controlled")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    TARGET_MEAN_FIELD_NUMBER: _ClassVar[int]
    TARGET_STDDEV_FIELD_NUMBER: _ClassVar[int]
    LENGTH_CONTROLLED_FIELD_NUMBER: _ClassVar[int]
    header: _types_pb2.CallHeader
    samples: _containers.RepeatedCompositeFieldContainer[AnsweredPrompt]
    target_mean: float
    target_stddev: float
    length_controlled: bool
    def __init__(self, header: _Optional[_Union[_types_pb2.CallHeader, _Mapping]] = ..., samples: _Optional[_Iterable[_Union[AnsweredPrompt, _Mapping]]] = ..., target_mean: _Optional[float] = ..., target_stddev: _Optional[float] = ..., length_controlled: bool = ...) -> None: ...

class FitNormalisationResponse(_message.Message):
    __slots__ = ("progress", "fitted")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    FITTED_FIELD_NUMBER: _ClassVar[int]
    progress: _types_pb2.Progress
    fitted: FittedNormalisation
    def __init__(self, progress: _Optional[_Union[_types_pb2.Progress, _Mapping]] = ..., fitted: _Optional[_Union[FittedNormalisation, _Mapping]] = ...) -> None: ...

class FittedNormalisation(_message.Message):
    __slots__ = ("gain", "bias", "raw_mean", "raw_stddev", "length_coefficient")
    GAIN_FIELD_NUMBER: _ClassVar[int]
    BIAS_FIELD_NUMBER: _ClassVar[int]
    RAW_MEAN_FIELD_NUMBER: _ClassVar[int]
    RAW_STDDEV_FIELD_NUMBER: _ClassVar[int]
    LENGTH_COEFFICIENT_FIELD_NUMBER: _ClassVar[int]
    gain: float
    bias: float
    raw_mean: float
    raw_stddev: float
    length_coefficient: float
    def __init__(self, gain: _Optional[float] = ..., bias: _Optional[float] = ..., raw_mean: _Optional[float] = ..., raw_stddev: _Optional[float] = ..., length_coefficient: _Optional[float] = ...) -> None: ...

class PpoBatch(_message.Message):
    __slots__ = ("rollouts",)
    ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
    rollouts: _containers.RepeatedCompositeFieldContainer[_types_pb2.Rollout]
    def __init__(self, rollouts: _Optional[_Iterable[_Union[_types_pb2.Rollout, _Mapping]]] = ...) -> None: ...

class PpoStepRequest(_message.Message):
    __slots__ = ("header", "inline", "artifact")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    INLINE_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    header: _types_pb2.CallHeader
    inline: PpoBatch
    artifact: _types_pb2.Artifact
    def __init__(self, header: _Optional[_Union[_types_pb2.CallHeader, _Mapping]] = ..., inline: _Optional[_Union[PpoBatch, _Mapping]] = ..., artifact: _Optional[_Union[_types_pb2.Artifact, _Mapping]] = ...) -> None: ...

class PpoStepResponse(_message.Message):
    __slots__ = ("progress", "result")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    progress: _types_pb2.Progress
    result: StepResult
    def __init__(self, progress: _Optional[_Union[_types_pb2.Progress, _Mapping]] = ..., result: _Optional[_Union[StepResult, _Mapping]] = ...) -> None: ...

class WrittenPair(_message.Message):
    __slots__ = ("text", "conversation", "first", "second")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    SECOND_FIELD_NUMBER: _ClassVar[int]
    text: str
    conversation: _types_pb2.Conversation
    first: str
    second: str
    def __init__(self, text: _Optional[str] = ..., conversation: _Optional[_Union[_types_pb2.Conversation, _Mapping]] = ..., first: _Optional[str] = ..., second: _Optional[str] = ...) -> None: ...

class SampledPair(_message.Message):
    __slots__ = ("first", "second")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    SECOND_FIELD_NUMBER: _ClassVar[int]
    first: _types_pb2.Rollout
    second: _types_pb2.Rollout
    def __init__(self, first: _Optional[_Union[_types_pb2.Rollout, _Mapping]] = ..., second: _Optional[_Union[_types_pb2.Rollout, _Mapping]] = ...) -> None: ...

class PreferencePair(_message.Message):
    __slots__ = ("prompt_id", "written", "sampled", "probability", "error", "margin", "weight")
    PROMPT_ID_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    prompt_id: str
    written: WrittenPair
    sampled: SampledPair
    probability: float
    error: _types_pb2.ItemError
    margin: float
    weight: float
    def __init__(self, prompt_id: _Optional[str] = ..., written: _Optional[_Union[WrittenPair, _Mapping]] = ..., sampled: _Optional[_Union[SampledPair, _Mapping]] = ..., probability: _Optional[float] = ..., error: _Optional[_Union[_types_pb2.ItemError, _Mapping]] = ..., margin: _Optional[float] = ..., weight: _Optional[float] = ...) -> None: ...

class PreferenceBatch(_message.Message):
    __slots__ = ("pairs",)
    PAIRS_FIELD_NUMBER: _ClassVar[int]
    pairs: _containers.RepeatedCompositeFieldContainer[PreferencePair]
    def __init__(self, pairs: _Optional[_Iterable[_Union[PreferencePair, _Mapping]]] = ...) -> None: ...

class PreferenceStepRequest(_message.Message):
    __slots__ = ("header", "inline", "artifact", "evaluate_only")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    INLINE_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    EVALUATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    header: _types_pb2.CallHeader
    inline: PreferenceBatch
    artifact: _types_pb2.Artifact
    evaluate_only: bool
    def __init__(self, header: _Optional[_Union[_types_pb2.CallHeader, _Mapping]] = ..., inline: _Optional[_Union[PreferenceBatch, _Mapping]] = ..., artifact: _Optional[_Union[_types_pb2.Artifact, _Mapping]] = ..., evaluate_only: bool = ...) -> None: ...

class PreferenceStepResponse(_message.Message):
    __slots__ = ("progress", "result")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    progress: _types_pb2.Progress
    result: StepResult
    def __init__(self, progress: _Optional[_Union[_types_pb2.Progress, _Mapping]] = ..., result: _Optional[_Union[StepResult, _Mapping]] = ...) -> None: ...

class PublishRequest(_message.Message):
    __slots__ = ("header", "number")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    header: _types_pb2.CallHeader
    number: int
    def __init__(self, header: _Optional[_Union[_types_pb2.CallHeader, _Mapping]] = ..., number: _Optional[int] = ...) -> None: ...

class PublishResponse(_message.Message):
    __slots__ = ("progress", "published")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    progress: _types_pb2.Progress
    published: PublishedModel
    def __init__(self, progress: _Optional[_Union[_types_pb2.Progress, _Mapping]] = ..., published: _Optional[_Union[PublishedModel, _Mapping]] = ...) -> None: ...

class PublishedModel(_message.Message):
    __slots__ = ("location", "bytes", "seconds")
    LOCATION_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    location: _types_pb2.ModelLocation
    bytes: int
    seconds: float
    def __init__(self, location: _Optional[_Union[_types_pb2.ModelLocation, _Mapping]] = ..., bytes: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class RollBackRequest(_message.Message):
    __slots__ = ("header", "good", "number")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    GOOD_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    header: _types_pb2.CallHeader
    good: _types_pb2.ModelLocation
    number: int
    def __init__(self, header: _Optional[_Union[_types_pb2.CallHeader, _Mapping]] = ..., good: _Optional[_Union[_types_pb2.ModelLocation, _Mapping]] = ..., number: _Optional[int] = ...) -> None: ...

class RollBackResponse(_message.Message):
    __slots__ = ("progress", "published")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    progress: _types_pb2.Progress
    published: PublishedModel
    def __init__(self, progress: _Optional[_Union[_types_pb2.Progress, _Mapping]] = ..., published: _Optional[_Union[PublishedModel, _Mapping]] = ...) -> None: ...

class CheckpointLocation(_message.Message):
    __slots__ = ("uri", "sha256", "step")
    URI_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    uri: str
    sha256: str
    step: int
    def __init__(self, uri: _Optional[str] = ..., sha256: _Optional[str] = ..., step: _Optional[int] = ...) -> None: ...

class CheckpointRequest(_message.Message):
    __slots__ = ("header",)
    HEADER_FIELD_NUMBER: _ClassVar[int]
    header: _types_pb2.CallHeader
    def __init__(self, header: _Optional[_Union[_types_pb2.CallHeader, _Mapping]] = ...) -> None: ...

class CheckpointResponse(_message.Message):
    __slots__ = ("progress", "checkpoint")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    progress: _types_pb2.Progress
    checkpoint: CheckpointLocation
    def __init__(self, progress: _Optional[_Union[_types_pb2.Progress, _Mapping]] = ..., checkpoint: _Optional[_Union[CheckpointLocation, _Mapping]] = ...) -> None: ...

class RestoreRequest(_message.Message):
    __slots__ = ("header", "checkpoint")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    header: _types_pb2.CallHeader
    checkpoint: CheckpointLocation
    def __init__(self, header: _Optional[_Union[_types_pb2.CallHeader, _Mapping]] = ..., checkpoint: _Optional[_Union[CheckpointLocation, _Mapping]] = ...) -> None: ...

class RestoreResponse(_message.Message):
    __slots__ = ("progress", "state")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    progress: _types_pb2.Progress
    state: GetStateResponse
    def __init__(self, progress: _Optional[_Union[_types_pb2.Progress, _Mapping]] = ..., state: _Optional[_Union[GetStateResponse, _Mapping]] = ...) -> None: ...
