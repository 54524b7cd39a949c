from trueline.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ScorerKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SCORER_KIND_UNSPECIFIED: _ClassVar[ScorerKind]
    SCORER_KIND_LEARNED: _ClassVar[ScorerKind]
    SCORER_KIND_RULE: _ClassVar[ScorerKind]
    SCORER_KIND_COMBINED: _ClassVar[ScorerKind]
SCORER_KIND_UNSPECIFIED: ScorerKind
SCORER_KIND_LEARNED: ScorerKind
SCORER_KIND_RULE: ScorerKind
SCORER_KIND_COMBINED: ScorerKind

class ScoreItem(_message.Message):
    __slots__ = ("text", "conversation", "response")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    text: str
    conversation: _types_pb2.Conversation
    response: str
    def __init__(self, text: _Optional[str] = ..., conversation: _Optional[_Union[_types_pb2.Conversation, _Mapping]] = ..., response: _Optional[str] = ...) -> None: ...

class ScoreRequest(_message.Message):
    __slots__ = ("scorer", "items", "expected_version")
    SCORER_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    scorer: str
    items: _containers.RepeatedCompositeFieldContainer[ScoreItem]
    expected_version: _types_pb2.ModelVersion
    def __init__(self, scorer: _Optional[str] = ..., items: _Optional[_Iterable[_Union[ScoreItem, _Mapping]]] = ..., expected_version: _Optional[_Union[_types_pb2.ModelVersion, _Mapping]] = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ("scores", "scorer", "timing")
    SCORES_FIELD_NUMBER: _ClassVar[int]
    SCORER_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    scores: _containers.RepeatedCompositeFieldContainer[_types_pb2.Score]
    scorer: Scorer
    timing: _types_pb2.Timing
    def __init__(self, scores: _Optional[_Iterable[_Union[_types_pb2.Score, _Mapping]]] = ..., scorer: _Optional[_Union[Scorer, _Mapping]] = ..., timing: _Optional[_Union[_types_pb2.Timing, _Mapping]] = ...) -> None: ...

class Scorer(_message.Message):
    __slots__ = ("name", "kind", "version", "function", "tokenizer_sha256", "template_sha256", "context_length", "normalisation", "combination", "parts")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_SHA256_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_SHA256_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    NORMALISATION_FIELD_NUMBER: _ClassVar[int]
    COMBINATION_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: ScorerKind
    version: _types_pb2.ModelVersion
    function: str
    tokenizer_sha256: str
    template_sha256: str
    context_length: int
    normalisation: Normalisation
    combination: str
    parts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[_Union[ScorerKind, str]] = ..., version: _Optional[_Union[_types_pb2.ModelVersion, _Mapping]] = ..., function: _Optional[str] = ..., tokenizer_sha256: _Optional[str] = ..., template_sha256: _Optional[str] = ..., context_length: _Optional[int] = ..., normalisation: _Optional[_Union[Normalisation, _Mapping]] = ..., combination: _Optional[str] = ..., parts: _Optional[_Iterable[str]] = ...) -> None: ...

class Normalisation(_message.Message):
    __slots__ = ("gain", "bias", "length_coefficient")
    GAIN_FIELD_NUMBER: _ClassVar[int]
    BIAS_FIELD_NUMBER: _ClassVar[int]
    LENGTH_COEFFICIENT_FIELD_NUMBER: _ClassVar[int]
    gain: float
    bias: float
    length_coefficient: float
    def __init__(self, gain: _Optional[float] = ..., bias: _Optional[float] = ..., length_coefficient: _Optional[float] = ...) -> None: ...

class ListScorersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListScorersResponse(_message.Message):
    __slots__ = ("scorers",)
    SCORERS_FIELD_NUMBER: _ClassVar[int]
    scorers: _containers.RepeatedCompositeFieldContainer[Scorer]
    def __init__(self, scorers: _Optional[_Iterable[_Union[Scorer, _Mapping]]] = ...) -> None: ...

class RewardServiceLoadWeightsRequest(_message.Message):
    __slots__ = ("header", "scorer", "location")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    SCORER_FIELD_NUMBER: _ClassVar[int]
    LOCATION_FIELD_NUMBER: _ClassVar[int]
    header: _types_pb2.CallHeader
    scorer: str
    location: _types_pb2.ModelLocation
    def __init__(self, header: _Optional[_Union[_types_pb2.CallHeader, _Mapping]] = ..., scorer: _Optional[str] = ..., location: _Optional[_Union[_types_pb2.ModelLocation, _Mapping]] = ...) -> None: ...

class RewardServiceLoadWeightsResponse(_message.Message):
    __slots__ = ("progress", "loaded")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    LOADED_FIELD_NUMBER: _ClassVar[int]
    progress: _types_pb2.Progress
    loaded: _types_pb2.LoadedModel
    def __init__(self, progress: _Optional[_Union[_types_pb2.Progress, _Mapping]] = ..., loaded: _Optional[_Union[_types_pb2.LoadedModel, _Mapping]] = ...) -> None: ...
