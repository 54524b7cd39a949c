"""Between protobuf messages and the records that services work with: the edges' shared conversions.

A conversion that can fail takes the path of what it converts, so that an error names the field.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from services.artifact_root import resolve
from services.errors import FieldError, FieldErrors, PreconditionError
from services.fence import CallHeader
from services.progress import ProgressEvent
from services.weights import ModelVersion
from services.work import Timing
from trueline.v1 import types_pb2 as pb

Item = TypeVar("Item")
Record = TypeVar("Record")

ROLE_WORDS = {pb.ROLE_SYSTEM: "system", pb.ROLE_USER: "user", pb.ROLE_ASSISTANT: "assistant"}


def together(*parts: Callable[[], Any]) -> tuple[Any, ...]:
    """What each part converts to. Raises FieldErrors with the faults of all of them at once."""
    results: list[Any] = []
    faults: list[FieldError] = []
    for part in parts:
        try:
            results.append(part())
        except FieldErrors as several:
            faults += several.errors
        except FieldError as fault:
            faults.append(fault)
    if faults:
        raise FieldErrors(faults)
    return tuple(results)


def convert_each(field: str, items: Iterable[Item], convert: Callable[[Item, str], Record]) -> list[Record]:
    """Every item converted, or one FieldErrors with all that failed."""
    return list(together(*(partial(convert, item, f"{field}[{i}]") for i, item in enumerate(items))))


def convert_items(items: Any, convert: Callable[[Any, str], Record], max_items: int) -> list[Record]:
    """The records of a call's items. FieldErrors names every malformed one, FieldError their number."""
    if not 1 <= len(items) <= max_items:
        raise FieldError("items", len(items), f"must hold 1 to {max_items} items")
    return convert_each("items", items, convert)


def header_from_pb(header: pb.CallHeader) -> CallHeader:
    """The header of a mutating call; Fence checks it."""
    return CallHeader(header.run_id, header.epoch, header.request_id, header.expected_step)


def fingerprint(method: str, request: Any) -> str:
    """Tells one request from another but for its header's epoch: "Publish:9f86d0...". For Fence.

    The epoch is left out, since a new leader repeats the requests of the one before it.
    """
    unheaded = type(request)()
    unheaded.CopyFrom(request)
    unheaded.ClearField("header")
    step = request.header.expected_step
    content = unheaded.SerializeToString(deterministic=True)
    return f"{method}:{step}:{hashlib.sha256(content).hexdigest()}"


def version_from_pb(version: pb.ModelVersion) -> ModelVersion:
    """The record of a version."""
    return ModelVersion(version.model, version.number, version.sha256)


def version_to_pb(version: ModelVersion) -> pb.ModelVersion:
    """The message of a version."""
    return pb.ModelVersion(model=version.model, number=version.number, sha256=version.sha256)


def expected_version_from_pb(request: Any) -> ModelVersion | None:
    """request.expected_version where it is set."""
    return version_from_pb(request.expected_version) if request.HasField("expected_version") else None


def require_version(expected: ModelVersion | None, served: ModelVersion) -> None:
    """Raises PreconditionError("wrong_version") when another version is expected than the one served."""
    if expected is not None and expected != served:
        raise PreconditionError(
            "wrong_version",
            f"expected_version: serving {served} ({served.sha256}), not {expected} ({expected.sha256})",
        )


def messages_from_pb(conversation: pb.Conversation, path: str) -> list[dict[str, str]]:
    """Turns as a chat template takes them: [{"role": "user", "content": "hi"}]; FieldError for none."""
    if not conversation.messages:
        raise FieldError(f"{path}.messages", [], "must hold at least one message")
    turns = []
    for index, message in enumerate(conversation.messages):
        if message.role not in ROLE_WORDS:
            words = ", ".join(pb.Role.Name(role) for role in ROLE_WORDS)
            raise FieldError(f"{path}.messages[{index}].role", message.role, f"must be one of {words}")
        turns.append({"role": ROLE_WORDS[message.role], "content": message.content})
    return turns


def timing_to_pb(timing: Timing) -> pb.Timing:
    """The message of a timing."""
    return pb.Timing(queue_seconds=timing.queue_seconds, compute_seconds=timing.compute_seconds)


def progress_to_pb(event: ProgressEvent) -> pb.Progress:
    """The message of a sign of life."""
    return pb.Progress(activity=event.activity, done=event.done, total=event.total)


def loaded_to_pb(version: ModelVersion, size: int, seconds: float) -> pb.LoadedModel:
    """The message that ends a LoadWeights stream."""
    return pb.LoadedModel(version=version_to_pb(version), bytes=size, seconds=seconds)


def location_from_pb(location: pb.ModelLocation, field: str = "location") -> tuple[ModelVersion | None, Path]:
    """The version that is expected, or None for whatever lies there, and the directory.

    Raises FieldError for a missing part.
    """
    expected = version_from_pb(location.version) if location.HasField("version") else None
    for part in ("model", "sha256"):
        if expected is not None and not getattr(expected, part):
            raise FieldError(f"{field}.version.{part}", "", "must not be empty")
    limit = "must be an absolute path, a file: URI or hf://OWNER/NAME"
    return expected, resolve(location.uri, f"{field}.uri", limit)


def prompt_from_pb(message: Any, field: str) -> str | list[dict[str, str]]:
    """The `prompt` of a message that has one: a text, or turns. Raises FieldError where neither is set."""
    which = message.WhichOneof("prompt")
    if which is None:
        raise FieldError(f"{field}.prompt", None, "must be text or conversation")
    if which == "text":
        return str(message.text)
    return messages_from_pb(message.conversation, f"{field}.conversation")


def item_prompt_from_pb(item: Any, field: str) -> str | list[dict[str, str]]:
    """As prompt_from_pb, but no turns are an empty prompt: an error of the item rather than of the call."""
    if item.WhichOneof("prompt") == "conversation" and not item.conversation.messages:
        return []
    return prompt_from_pb(item, field)
