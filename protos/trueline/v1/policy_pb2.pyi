from trueline.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PromptOverflow(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PROMPT_OVERFLOW_UNSPECIFIED: _ClassVar[PromptOverflow]
    PROMPT_OVERFLOW_TRUNCATE: _ClassVar[PromptOverflow]

class GivenLogprobs(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GIVEN_LOGPROBS_UNSPECIFIED: _ClassVar[GivenLogprobs]
    GIVEN_LOGPROBS_NONE: _ClassVar[GivenLogprobs]
    GIVEN_LOGPROBS_TEMPERATURE_ONE: _ClassVar[GivenLogprobs]
    GIVEN_LOGPROBS_ANY_TEMPERATURE: _ClassVar[GivenLogprobs]
PROMPT_OVERFLOW_UNSPECIFIED: PromptOverflow
PROMPT_OVERFLOW_TRUNCATE: PromptOverflow
GIVEN_LOGPROBS_UNSPECIFIED: GivenLogprobs
GIVEN_LOGPROBS_NONE: GivenLogprobs
GIVEN_LOGPROBS_TEMPERATURE_ONE: GivenLogprobs
GIVEN_LOGPROBS_ANY_TEMPERATURE: GivenLogprobs

class PromptSamples(_message.Message):
    __slots__ = ("prompt", "first_sample", "samples")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    FIRST_SAMPLE_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    prompt: _types_pb2.Prompt
    first_sample: int
    samples: int
    def __init__(self, prompt: _Optional[_Union[_types_pb2.Prompt, _Mapping]] = ..., first_sample: _Optional[int] = ..., samples: _Optional[int] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("prompts", "sampling", "expected_version", "prompt_overflow")
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    PROMPT_OVERFLOW_FIELD_NUMBER: _ClassVar[int]
    prompts: _containers.RepeatedCompositeFieldContainer[PromptSamples]
    sampling: _types_pb2.SamplingParameters
    expected_version: _types_pb2.ModelVersion
    prompt_overflow: PromptOverflow
    def __init__(self, prompts: _Optional[_Iterable[_Union[PromptSamples, _Mapping]]] = ..., sampling: _Optional[_Union[_types_pb2.SamplingParameters, _Mapping]] = ..., expected_version: _Optional[_Union[_types_pb2.ModelVersion, _Mapping]] = ..., prompt_overflow: _Optional[_Union[PromptOverflow, str]] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("rollouts", "timing")
    ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    rollouts: _containers.RepeatedCompositeFieldContainer[_types_pb2.Rollout]
    timing: _types_pb2.Timing
    def __init__(self, rollouts: _Optional[_Iterable[_Union[_types_pb2.Rollout, _Mapping]]] = ..., timing: _Optional[_Union[_types_pb2.Timing, _Mapping]] = ...) -> None: ...

class CountPromptTokensRequest(_message.Message):
    __slots__ = ("prompts", "expected_version")
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    prompts: _containers.RepeatedCompositeFieldContainer[_types_pb2.Prompt]
    expected_version: _types_pb2.ModelVersion
    def __init__(self, prompts: _Optional[_Iterable[_Union[_types_pb2.Prompt, _Mapping]]] = ..., expected_version: _Optional[_Union[_types_pb2.ModelVersion, _Mapping]] = ...) -> None: ...

class CountPromptTokensResponse(_message.Message):
    __slots__ = ("tokens", "context_length", "version")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    context_length: int
    version: _types_pb2.ModelVersion
    def __init__(self, tokens: _Optional[_Iterable[int]] = ..., context_length: _Optional[int] = ..., version: _Optional[_Union[_types_pb2.ModelVersion, _Mapping]] = ...) -> None: ...

class PolicyServiceComputeLogprobsRequest(_message.Message):
    __slots__ = ("rows", "temperature", "expected_version")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[_types_pb2.LogprobRow]
    temperature: float
    expected_version: _types_pb2.ModelVersion
    def __init__(self, rows: _Optional[_Iterable[_Union[_types_pb2.LogprobRow, _Mapping]]] = ..., temperature: _Optional[float] = ..., expected_version: _Optional[_Union[_types_pb2.ModelVersion, _Mapping]] = ...) -> None: ...

class PolicyServiceComputeLogprobsResponse(_message.Message):
    __slots__ = ("results", "logprob_kind", "version", "timing")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_KIND_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[_types_pb2.LogprobResult]
    logprob_kind: _types_pb2.LogprobKind
    version: _types_pb2.ModelVersion
    timing: _types_pb2.Timing
    def __init__(self, results: _Optional[_Iterable[_Union[_types_pb2.LogprobResult, _Mapping]]] = ..., logprob_kind: _Optional[_Union[_types_pb2.LogprobKind, str]] = ..., version: _Optional[_Union[_types_pb2.ModelVersion, _Mapping]] = ..., timing: _Optional[_Union[_types_pb2.Timing, _Mapping]] = ...) -> None: ...

class PolicyServiceLoadWeightsRequest(_message.Message):
    __slots__ = ("header", "location")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    LOCATION_FIELD_NUMBER: _ClassVar[int]
    header: _types_pb2.CallHeader
    location: _types_pb2.ModelLocation
    def __init__(self, header: _Optional[_Union[_types_pb2.CallHeader, _Mapping]] = ..., location: _Optional[_Union[_types_pb2.ModelLocation, _Mapping]] = ...) -> None: ...

class PolicyServiceLoadWeightsResponse(_message.Message):
    __slots__ = ("progress", "loaded")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    LOADED_FIELD_NUMBER: _ClassVar[int]
    progress: _types_pb2.Progress
    loaded: _types_pb2.LoadedModel
    def __init__(self, progress: _Optional[_Union[_types_pb2.Progress, _Mapping]] = ..., loaded: _Optional[_Union[_types_pb2.LoadedModel, _Mapping]] = ...) -> None: ...

class GetPolicyRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetPolicyResponse(_message.Message):
    __slots__ = ("version", "engine", "logprob_kinds", "hot_swap", "context_length", "vocabulary_size", "tokenizer_sha256", "template_sha256", "end_of_text_ids", "restarts", "stop_texts", "top_k", "seeds", "given_logprobs", "deterministic")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_KINDS_FIELD_NUMBER: _ClassVar[int]
    HOT_SWAP_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_SHA256_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_SHA256_FIELD_NUMBER: _ClassVar[int]
    END_OF_TEXT_IDS_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    STOP_TEXTS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    GIVEN_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    DETERMINISTIC_FIELD_NUMBER: _ClassVar[int]
    version: _types_pb2.ModelVersion
    engine: str
    logprob_kinds: _containers.RepeatedScalarFieldContainer[_types_pb2.LogprobKind]
    hot_swap: bool
    context_length: int
    vocabulary_size: int
    tokenizer_sha256: str
    template_sha256: str
    end_of_text_ids: _containers.RepeatedScalarFieldContainer[int]
    restarts: bool
    stop_texts: int
    top_k: bool
    seeds: bool
    given_logprobs: GivenLogprobs
    deterministic: bool
    def __init__(self, version: _Optional[_Union[_types_pb2.ModelVersion, _Mapping]] = ..., engine: _Optional[str] = ..., logprob_kinds: _Optional[_Iterable[_Union[_types_pb2.LogprobKind, str]]] = ..., hot_swap: bool = ..., context_length: _Optional[int] = ..., vocabulary_size: _Optional[int] = ..., tokenizer_sha256: _Optional[str] = ..., template_sha256: _Optional[str] = ..., end_of_text_ids: _Optional[_Iterable[int]] = ..., restarts: bool = ..., stop_texts: _Optional[int] = ..., top_k: bool = ..., seeds: bool = ..., given_logprobs: _Optional[_Union[GivenLogprobs, str]] = ..., deterministic: bool = ...) -> None: ...
