from trueline.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReferenceServiceComputeLogprobsRequest(_message.Message):
    __slots__ = ("rows", "temperature", "expected_version")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[_types_pb2.LogprobRow]
    temperature: float
    expected_version: _types_pb2.ModelVersion
    def __init__(self, rows: _Optional[_Iterable[_Union[_types_pb2.LogprobRow, _Mapping]]] = ..., temperature: _Optional[float] = ..., expected_version: _Optional[_Union[_types_pb2.ModelVersion, _Mapping]] = ...) -> None: ...

class ReferenceServiceComputeLogprobsResponse(_message.Message):
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

class ReferenceServiceLoadWeightsRequest(_message.Message):
    __slots__ = ("header", "location")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    LOCATION_FIELD_NUMBER: _ClassVar[int]
    header: _types_pb2.CallHeader
    location: _types_pb2.ModelLocation
    def __init__(self, header: _Optional[_Union[_types_pb2.CallHeader, _Mapping]] = ..., location: _Optional[_Union[_types_pb2.ModelLocation, _Mapping]] = ...) -> None: ...

class ReferenceServiceLoadWeightsResponse(_message.Message):
    __slots__ = ("progress", "loaded")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    LOADED_FIELD_NUMBER: _ClassVar[int]
    progress: _types_pb2.Progress
    loaded: _types_pb2.LoadedModel
    def __init__(self, progress: _Optional[_Union[_types_pb2.Progress, _Mapping]] = ..., loaded: _Optional[_Union[_types_pb2.LoadedModel, _Mapping]] = ...) -> None: ...

class GetReferenceRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetReferenceResponse(_message.Message):
    __slots__ = ("version", "context_length", "vocabulary_size", "tokenizer_sha256")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_SHA256_FIELD_NUMBER: _ClassVar[int]
    version: _types_pb2.ModelVersion
    context_length: int
    vocabulary_size: int
    tokenizer_sha256: str
    def __init__(self, version: _Optional[_Union[_types_pb2.ModelVersion, _Mapping]] = ..., context_length: _Optional[int] = ..., vocabulary_size: _Optional[int] = ..., tokenizer_sha256: _Optional[str] = ...) -> None: ...
