from trueline.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AbstentionReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ABSTENTION_REASON_UNSPECIFIED: _ClassVar[AbstentionReason]
    ABSTENTION_REASON_ORDERS_DISAGREE: _ClassVar[AbstentionReason]
    ABSTENTION_REASON_TIE: _ClassVar[AbstentionReason]
    ABSTENTION_REASON_UNPARSABLE: _ClassVar[AbstentionReason]
    ABSTENTION_REASON_EMPTY_ANSWER: _ClassVar[AbstentionReason]
    ABSTENTION_REASON_EMPTY_INPUT: _ClassVar[AbstentionReason]
    ABSTENTION_REASON_IDENTICAL_RESPONSES: _ClassVar[AbstentionReason]
    ABSTENTION_REASON_TOO_LONG: _ClassVar[AbstentionReason]
    ABSTENTION_REASON_TEMPLATE_FAILED: _ClassVar[AbstentionReason]
    ABSTENTION_REASON_NON_FINITE: _ClassVar[AbstentionReason]
    ABSTENTION_REASON_NO_LOGPROBS: _ClassVar[AbstentionReason]
    ABSTENTION_REASON_ENDPOINT_FAILED: _ClassVar[AbstentionReason]
    ABSTENTION_REASON_ENDPOINT_REFUSED: _ClassVar[AbstentionReason]
    ABSTENTION_REASON_RATE_LIMITED: _ClassVar[AbstentionReason]
    ABSTENTION_REASON_TIMED_OUT: _ClassVar[AbstentionReason]
    ABSTENTION_REASON_FILTERED: _ClassVar[AbstentionReason]

class PrincipleChoice(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRINCIPLE_CHOICE_UNSPECIFIED: _ClassVar[PrincipleChoice]
    PRINCIPLE_CHOICE_SAMPLED: _ClassVar[PrincipleChoice]
    PRINCIPLE_CHOICE_ENSEMBLE: _ClassVar[PrincipleChoice]

class Order(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ORDER_UNSPECIFIED: _ClassVar[Order]
    ORDER_AS_GIVEN: _ClassVar[Order]
    ORDER_SWAPPED: _ClassVar[Order]

class Evidence(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVIDENCE_UNSPECIFIED: _ClassVar[Evidence]
    EVIDENCE_LOGPROBS: _ClassVar[Evidence]
    EVIDENCE_TEXT: _ClassVar[Evidence]
ABSTENTION_REASON_UNSPECIFIED: AbstentionReason
ABSTENTION_REASON_ORDERS_DISAGREE: AbstentionReason
ABSTENTION_REASON_TIE: AbstentionReason
ABSTENTION_REASON_UNPARSABLE: AbstentionReason
ABSTENTION_REASON_EMPTY_ANSWER: AbstentionReason
ABSTENTION_REASON_EMPTY_INPUT: AbstentionReason
ABSTENTION_REASON_IDENTICAL_RESPONSES: AbstentionReason
ABSTENTION_REASON_TOO_LONG: AbstentionReason
ABSTENTION_REASON_TEMPLATE_FAILED: AbstentionReason
ABSTENTION_REASON_NON_FINITE: AbstentionReason
ABSTENTION_REASON_NO_LOGPROBS: AbstentionReason
ABSTENTION_REASON_ENDPOINT_FAILED: AbstentionReason
ABSTENTION_REASON_ENDPOINT_REFUSED: AbstentionReason
ABSTENTION_REASON_RATE_LIMITED: AbstentionReason
ABSTENTION_REASON_TIMED_OUT: AbstentionReason
ABSTENTION_REASON_FILTERED: AbstentionReason
PRINCIPLE_CHOICE_UNSPECIFIED: PrincipleChoice
PRINCIPLE_CHOICE_SAMPLED: PrincipleChoice
PRINCIPLE_CHOICE_ENSEMBLE: PrincipleChoice
ORDER_UNSPECIFIED: Order
ORDER_AS_GIVEN: Order
ORDER_SWAPPED: Order
EVIDENCE_UNSPECIFIED: Evidence
EVIDENCE_LOGPROBS: Evidence
EVIDENCE_TEXT: Evidence

class Abstention(_message.Message):
    __slots__ = ("reason", "message")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    reason: AbstentionReason
    message: str
    def __init__(self, reason: _Optional[_Union[AbstentionReason, str]] = ..., message: _Optional[str] = ...) -> None: ...

class PrincipleSelection(_message.Message):
    __slots__ = ("choice", "names", "tags", "seed")
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    choice: PrincipleChoice
    names: _containers.RepeatedScalarFieldContainer[str]
    tags: _containers.RepeatedScalarFieldContainer[str]
    seed: int
    def __init__(self, choice: _Optional[_Union[PrincipleChoice, str]] = ..., names: _Optional[_Iterable[str]] = ..., tags: _Optional[_Iterable[str]] = ..., seed: _Optional[int] = ...) -> None: ...

class ReadingRules(_message.Message):
    __slots__ = ("min_option_mass", "tie_band", "disagreement_tolerance", "chain_of_thought")
    MIN_OPTION_MASS_FIELD_NUMBER: _ClassVar[int]
    TIE_BAND_FIELD_NUMBER: _ClassVar[int]
    DISAGREEMENT_TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    CHAIN_OF_THOUGHT_FIELD_NUMBER: _ClassVar[int]
    min_option_mass: float
    tie_band: float
    disagreement_tolerance: float
    chain_of_thought: bool
    def __init__(self, min_option_mass: _Optional[float] = ..., tie_band: _Optional[float] = ..., disagreement_tolerance: _Optional[float] = ..., chain_of_thought: bool = ...) -> None: ...

class JudgeSampling(_message.Message):
    __slots__ = ("temperature", "max_new_tokens", "seed")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    max_new_tokens: int
    seed: int
    def __init__(self, temperature: _Optional[float] = ..., max_new_tokens: _Optional[int] = ..., seed: _Optional[int] = ...) -> None: ...

class JudgeUsage(_message.Message):
    __slots__ = ("calls", "uncounted_calls", "prompt_tokens", "completion_tokens")
    CALLS_FIELD_NUMBER: _ClassVar[int]
    UNCOUNTED_CALLS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    calls: int
    uncounted_calls: int
    prompt_tokens: int
    completion_tokens: int
    def __init__(self, calls: _Optional[int] = ..., uncounted_calls: _Optional[int] = ..., prompt_tokens: _Optional[int] = ..., completion_tokens: _Optional[int] = ...) -> None: ...

class JudgeModel(_message.Message):
    __slots__ = ("model", "version", "endpoint", "tokenizer_sha256", "template_sha256")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_SHA256_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_SHA256_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: _types_pb2.ModelVersion
    endpoint: str
    tokenizer_sha256: str
    template_sha256: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[_Union[_types_pb2.ModelVersion, _Mapping]] = ..., endpoint: _Optional[str] = ..., tokenizer_sha256: _Optional[str] = ..., template_sha256: _Optional[str] = ...) -> None: ...

class Reading(_message.Message):
    __slots__ = ("principle", "order", "value", "abstention", "evidence", "option_logprobs", "option_mass", "raw", "reasoning", "revision", "usage")
    PRINCIPLE_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    ABSTENTION_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    OPTION_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    OPTION_MASS_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    REASONING_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    principle: str
    order: Order
    value: float
    abstention: Abstention
    evidence: Evidence
    option_logprobs: _containers.RepeatedScalarFieldContainer[float]
    option_mass: float
    raw: str
    reasoning: str
    revision: str
    usage: JudgeUsage
    def __init__(self, principle: _Optional[str] = ..., order: _Optional[_Union[Order, str]] = ..., value: _Optional[float] = ..., abstention: _Optional[_Union[Abstention, _Mapping]] = ..., evidence: _Optional[_Union[Evidence, str]] = ..., option_logprobs: _Optional[_Iterable[float]] = ..., option_mass: _Optional[float] = ..., raw: _Optional[str] = ..., reasoning: _Optional[str] = ..., revision: _Optional[str] = ..., usage: _Optional[_Union[JudgeUsage, _Mapping]] = ...) -> None: ...

class ComparisonItem(_message.Message):
    __slots__ = ("item_id", "text", "conversation", "first", "second")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    SECOND_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    text: str
    conversation: _types_pb2.Conversation
    first: str
    second: str
    def __init__(self, item_id: _Optional[str] = ..., text: _Optional[str] = ..., conversation: _Optional[_Union[_types_pb2.Conversation, _Mapping]] = ..., first: _Optional[str] = ..., second: _Optional[str] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("item_id", "probability", "abstention", "principles", "readings", "prompt_sha256", "first_sha256", "second_sha256", "usage")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    ABSTENTION_FIELD_NUMBER: _ClassVar[int]
    PRINCIPLES_FIELD_NUMBER: _ClassVar[int]
    READINGS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_SHA256_FIELD_NUMBER: _ClassVar[int]
    FIRST_SHA256_FIELD_NUMBER: _ClassVar[int]
    SECOND_SHA256_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    probability: float
    abstention: Abstention
    principles: _containers.RepeatedScalarFieldContainer[str]
    readings: _containers.RepeatedCompositeFieldContainer[Reading]
    prompt_sha256: str
    first_sha256: str
    second_sha256: str
    usage: JudgeUsage
    def __init__(self, item_id: _Optional[str] = ..., probability: _Optional[float] = ..., abstention: _Optional[_Union[Abstention, _Mapping]] = ..., principles: _Optional[_Iterable[str]] = ..., readings: _Optional[_Iterable[_Union[Reading, _Mapping]]] = ..., prompt_sha256: _Optional[str] = ..., first_sha256: _Optional[str] = ..., second_sha256: _Optional[str] = ..., usage: _Optional[_Union[JudgeUsage, _Mapping]] = ...) -> None: ...

class CompareRequest(_message.Message):
    __slots__ = ("items", "principles", "reading", "reasoning", "expected_constitution_sha256", "expected_version")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    PRINCIPLES_FIELD_NUMBER: _ClassVar[int]
    READING_FIELD_NUMBER: _ClassVar[int]
    REASONING_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_CONSTITUTION_SHA256_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[ComparisonItem]
    principles: PrincipleSelection
    reading: ReadingRules
    reasoning: JudgeSampling
    expected_constitution_sha256: str
    expected_version: _types_pb2.ModelVersion
    def __init__(self, items: _Optional[_Iterable[_Union[ComparisonItem, _Mapping]]] = ..., principles: _Optional[_Union[PrincipleSelection, _Mapping]] = ..., reading: _Optional[_Union[ReadingRules, _Mapping]] = ..., reasoning: _Optional[_Union[JudgeSampling, _Mapping]] = ..., expected_constitution_sha256: _Optional[str] = ..., expected_version: _Optional[_Union[_types_pb2.ModelVersion, _Mapping]] = ...) -> None: ...

class CompareResponse(_message.Message):
    __slots__ = ("verdicts", "judge", "constitution_sha256", "timing")
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    JUDGE_FIELD_NUMBER: _ClassVar[int]
    CONSTITUTION_SHA256_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    verdicts: _containers.RepeatedCompositeFieldContainer[Verdict]
    judge: JudgeModel
    constitution_sha256: str
    timing: _types_pb2.Timing
    def __init__(self, verdicts: _Optional[_Iterable[_Union[Verdict, _Mapping]]] = ..., judge: _Optional[_Union[JudgeModel, _Mapping]] = ..., constitution_sha256: _Optional[str] = ..., timing: _Optional[_Union[_types_pb2.Timing, _Mapping]] = ...) -> None: ...

class JudgedResponse(_message.Message):
    __slots__ = ("item_id", "text", "conversation", "response")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    text: str
    conversation: _types_pb2.Conversation
    response: str
    def __init__(self, item_id: _Optional[str] = ..., text: _Optional[str] = ..., conversation: _Optional[_Union[_types_pb2.Conversation, _Mapping]] = ..., response: _Optional[str] = ...) -> None: ...

class JudgeScore(_message.Message):
    __slots__ = ("item_id", "score", "abstention", "principles", "readings", "prompt_sha256", "response_sha256", "usage")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    ABSTENTION_FIELD_NUMBER: _ClassVar[int]
    PRINCIPLES_FIELD_NUMBER: _ClassVar[int]
    READINGS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_SHA256_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_SHA256_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    score: float
    abstention: Abstention
    principles: _containers.RepeatedScalarFieldContainer[str]
    readings: _containers.RepeatedCompositeFieldContainer[Reading]
    prompt_sha256: str
    response_sha256: str
    usage: JudgeUsage
    def __init__(self, item_id: _Optional[str] = ..., score: _Optional[float] = ..., abstention: _Optional[_Union[Abstention, _Mapping]] = ..., principles: _Optional[_Iterable[str]] = ..., readings: _Optional[_Iterable[_Union[Reading, _Mapping]]] = ..., prompt_sha256: _Optional[str] = ..., response_sha256: _Optional[str] = ..., usage: _Optional[_Union[JudgeUsage, _Mapping]] = ...) -> None: ...

class JudgeServiceScoreRequest(_message.Message):
    __slots__ = ("items", "principles", "min_option_mass", "expected_constitution_sha256", "expected_version")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    PRINCIPLES_FIELD_NUMBER: _ClassVar[int]
    MIN_OPTION_MASS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_CONSTITUTION_SHA256_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[JudgedResponse]
    principles: PrincipleSelection
    min_option_mass: float
    expected_constitution_sha256: str
    expected_version: _types_pb2.ModelVersion
    def __init__(self, items: _Optional[_Iterable[_Union[JudgedResponse, _Mapping]]] = ..., principles: _Optional[_Union[PrincipleSelection, _Mapping]] = ..., min_option_mass: _Optional[float] = ..., expected_constitution_sha256: _Optional[str] = ..., expected_version: _Optional[_Union[_types_pb2.ModelVersion, _Mapping]] = ...) -> None: ...

class JudgeServiceScoreResponse(_message.Message):
    __slots__ = ("scores", "judge", "constitution_sha256", "timing")
    SCORES_FIELD_NUMBER: _ClassVar[int]
    JUDGE_FIELD_NUMBER: _ClassVar[int]
    CONSTITUTION_SHA256_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    scores: _containers.RepeatedCompositeFieldContainer[JudgeScore]
    judge: JudgeModel
    constitution_sha256: str
    timing: _types_pb2.Timing
    def __init__(self, scores: _Optional[_Iterable[_Union[JudgeScore, _Mapping]]] = ..., judge: _Optional[_Union[JudgeModel, _Mapping]] = ..., constitution_sha256: _Optional[str] = ..., timing: _Optional[_Union[_types_pb2.Timing, _Mapping]] = ...) -> None: ...

class JudgeText(_message.Message):
    __slots__ = ("item_id", "text", "abstention", "principle", "truncated", "prompt_sha256", "response_sha256", "revision", "usage")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ABSTENTION_FIELD_NUMBER: _ClassVar[int]
    PRINCIPLE_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    PROMPT_SHA256_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_SHA256_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    text: str
    abstention: Abstention
    principle: str
    truncated: bool
    prompt_sha256: str
    response_sha256: str
    revision: str
    usage: JudgeUsage
    def __init__(self, item_id: _Optional[str] = ..., text: _Optional[str] = ..., abstention: _Optional[_Union[Abstention, _Mapping]] = ..., principle: _Optional[str] = ..., truncated: bool = ..., prompt_sha256: _Optional[str] = ..., response_sha256: _Optional[str] = ..., revision: _Optional[str] = ..., usage: _Optional[_Union[JudgeUsage, _Mapping]] = ...) -> None: ...

class CritiqueRequest(_message.Message):
    __slots__ = ("items", "principles", "sampling", "expected_constitution_sha256", "expected_version")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    PRINCIPLES_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_CONSTITUTION_SHA256_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[JudgedResponse]
    principles: PrincipleSelection
    sampling: JudgeSampling
    expected_constitution_sha256: str
    expected_version: _types_pb2.ModelVersion
    def __init__(self, items: _Optional[_Iterable[_Union[JudgedResponse, _Mapping]]] = ..., principles: _Optional[_Union[PrincipleSelection, _Mapping]] = ..., sampling: _Optional[_Union[JudgeSampling, _Mapping]] = ..., expected_constitution_sha256: _Optional[str] = ..., expected_version: _Optional[_Union[_types_pb2.ModelVersion, _Mapping]] = ...) -> None: ...

class CritiqueResponse(_message.Message):
    __slots__ = ("critiques", "judge", "constitution_sha256", "timing")
    CRITIQUES_FIELD_NUMBER: _ClassVar[int]
    JUDGE_FIELD_NUMBER: _ClassVar[int]
    CONSTITUTION_SHA256_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    critiques: _containers.RepeatedCompositeFieldContainer[JudgeText]
    judge: JudgeModel
    constitution_sha256: str
    timing: _types_pb2.Timing
    def __init__(self, critiques: _Optional[_Iterable[_Union[JudgeText, _Mapping]]] = ..., judge: _Optional[_Union[JudgeModel, _Mapping]] = ..., constitution_sha256: _Optional[str] = ..., timing: _Optional[_Union[_types_pb2.Timing, _Mapping]] = ...) -> None: ...

class RevisionItem(_message.Message):
    __slots__ = ("judged", "critique", "principle")
    JUDGED_FIELD_NUMBER: _ClassVar[int]
    CRITIQUE_FIELD_NUMBER: _ClassVar[int]
    PRINCIPLE_FIELD_NUMBER: _ClassVar[int]
    judged: JudgedResponse
    critique: str
    principle: str
    def __init__(self, judged: _Optional[_Union[JudgedResponse, _Mapping]] = ..., critique: _Optional[str] = ..., principle: _Optional[str] = ...) -> None: ...

class ReviseRequest(_message.Message):
    __slots__ = ("items", "principles", "sampling", "expected_constitution_sha256", "expected_version")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    PRINCIPLES_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_CONSTITUTION_SHA256_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[RevisionItem]
    principles: PrincipleSelection
    sampling: JudgeSampling
    expected_constitution_sha256: str
    expected_version: _types_pb2.ModelVersion
    def __init__(self, items: _Optional[_Iterable[_Union[RevisionItem, _Mapping]]] = ..., principles: _Optional[_Union[PrincipleSelection, _Mapping]] = ..., sampling: _Optional[_Union[JudgeSampling, _Mapping]] = ..., expected_constitution_sha256: _Optional[str] = ..., expected_version: _Optional[_Union[_types_pb2.ModelVersion, _Mapping]] = ...) -> None: ...

class ReviseResponse(_message.Message):
    __slots__ = ("revisions", "judge", "constitution_sha256", "timing")
    REVISIONS_FIELD_NUMBER: _ClassVar[int]
    JUDGE_FIELD_NUMBER: _ClassVar[int]
    CONSTITUTION_SHA256_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    revisions: _containers.RepeatedCompositeFieldContainer[JudgeText]
    judge: JudgeModel
    constitution_sha256: str
    timing: _types_pb2.Timing
    def __init__(self, revisions: _Optional[_Iterable[_Union[JudgeText, _Mapping]]] = ..., judge: _Optional[_Union[JudgeModel, _Mapping]] = ..., constitution_sha256: _Optional[str] = ..., timing: _Optional[_Union[_types_pb2.Timing, _Mapping]] = ...) -> None: ...

class Principle(_message.Message):
    __slots__ = ("name", "compare", "score", "critique", "revision", "weight", "tags")
    NAME_FIELD_NUMBER: _ClassVar[int]
    COMPARE_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    CRITIQUE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    name: str
    compare: str
    score: str
    critique: str
    revision: str
    weight: float
    tags: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., compare: _Optional[str] = ..., score: _Optional[str] = ..., critique: _Optional[str] = ..., revision: _Optional[str] = ..., weight: _Optional[float] = ..., tags: _Optional[_Iterable[str]] = ...) -> None: ...

class Constitution(_message.Message):
    __slots__ = ("name", "sha256", "principles")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    PRINCIPLES_FIELD_NUMBER: _ClassVar[int]
    name: str
    sha256: str
    principles: _containers.RepeatedCompositeFieldContainer[Principle]
    def __init__(self, name: _Optional[str] = ..., sha256: _Optional[str] = ..., principles: _Optional[_Iterable[_Union[Principle, _Mapping]]] = ...) -> None: ...

class GetConstitutionRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetConstitutionResponse(_message.Message):
    __slots__ = ("constitution", "judge")
    CONSTITUTION_FIELD_NUMBER: _ClassVar[int]
    JUDGE_FIELD_NUMBER: _ClassVar[int]
    constitution: Constitution
    judge: JudgeModel
    def __init__(self, constitution: _Optional[_Union[Constitution, _Mapping]] = ..., judge: _Optional[_Union[JudgeModel, _Mapping]] = ...) -> None: ...

class ReloadConstitutionRequest(_message.Message):
    __slots__ = ("header",)
    HEADER_FIELD_NUMBER: _ClassVar[int]
    header: _types_pb2.CallHeader
    def __init__(self, header: _Optional[_Union[_types_pb2.CallHeader, _Mapping]] = ...) -> None: ...

class ReloadConstitutionResponse(_message.Message):
    __slots__ = ("constitution", "changed")
    CONSTITUTION_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    constitution: Constitution
    changed: bool
    def __init__(self, constitution: _Optional[_Union[Constitution, _Mapping]] = ..., changed: bool = ...) -> None: ...

class JudgeServiceLoadWeightsRequest(_message.Message):
    __slots__ = ("header", "location")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    LOCATION_FIELD_NUMBER: _ClassVar[int]
    header: _types_pb2.CallHeader
    location: _types_pb2.ModelLocation
    def __init__(self, header: _Optional[_Union[_types_pb2.CallHeader, _Mapping]] = ..., location: _Optional[_Union[_types_pb2.ModelLocation, _Mapping]] = ...) -> None: ...

class JudgeServiceLoadWeightsResponse(_message.Message):
    __slots__ = ("progress", "loaded")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    LOADED_FIELD_NUMBER: _ClassVar[int]
    progress: _types_pb2.Progress
    loaded: _types_pb2.LoadedModel
    def __init__(self, progress: _Optional[_Union[_types_pb2.Progress, _Mapping]] = ..., loaded: _Optional[_Union[_types_pb2.LoadedModel, _Mapping]] = ...) -> None: ...
