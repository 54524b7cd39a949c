"""Between the trainer's messages and its records. Used by service.py alone.

Each `..._from_pb` takes the path of what it converts, so that an error names the field.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import DecodeError

from services.artifact_root import resolve
from services.errors import FieldError
from services.trainer.commands import FitNormalisation
from services.trainer.preference_settings import PreferenceSettings
from services.trainer.records import (
    AnsweredPrompt,
    CheckpointPlace,
    Comparison,
    Demonstration,
    Excluded,
    Group,
    Location,
    Normalisation,
    ScoredRollout,
    StageBegun,
    StagePlan,
    Standing,
    StepReport,
)
from services.trainer.settings import PpoSettings, RewardModelSettings, SftSettings, StageSettings
from services.weights import PublishedVersion
from services.wire import (
    convert_each,
    location_from_pb,
    messages_from_pb,
    prompt_from_pb,
    timing_to_pb,
    together,
    version_from_pb,
    version_to_pb,
)
from services.work import Timing
from trueline.v1 import trainer_pb2, types_pb2

SETTINGS: dict[str, type[Any]] = {
    "sft": SftSettings,
    "reward_model": RewardModelSettings,
    "ppo": PpoSettings,
    "preference": PreferenceSettings,
}
ROLES = {
    trainer_pb2.MODEL_ROLE_TRAINED: "trained",
    trainer_pb2.MODEL_ROLE_REWARD: "reward",
    trainer_pb2.MODEL_ROLE_REFERENCE: "reference",
}
LOGPROB_KINDS = {
    types_pb2.LOGPROB_KIND_RAW: "raw",
    types_pb2.LOGPROB_KIND_TEMPERATURE: "temperature",
    types_pb2.LOGPROB_KIND_PROCESSED: "processed",
}
FINISH_REASONS = {
    types_pb2.FINISH_REASON_END_OF_TEXT: "end_of_text",
    types_pb2.FINISH_REASON_STOP_TEXT: "stop_text",
    types_pb2.FINISH_REASON_LENGTH: "length",
}
UNSPECIFIED = "unspecified"
BUDGETS = {
    "": trainer_pb2.KL_BUDGET_UNSPECIFIED,
    "ok": trainer_pb2.KL_BUDGET_OK,
    "warn": trainer_pb2.KL_BUDGET_WARN,
    "stop": trainer_pb2.KL_BUDGET_STOP,
}

Item = TypeVar("Item")
Record = TypeVar("Record")


def plan_from_pb(request: trainer_pb2.BeginStageRequest) -> StagePlan:
    """A stage's plan. Raises FieldErrors that name every part that is missing or wrong, settings included."""
    _, _, models, models_dir, checkpoints_dir, settings = together(
        lambda: _require(request, "stage"),
        lambda: _require(request, "output_model"),
        lambda: _models_from_pb(request.models),
        lambda: _path(request.models_uri, "models_uri"),
        lambda: _path(request.checkpoints_uri, "checkpoints_uri"),
        lambda: _settings_of(request),
    )
    return StagePlan(
        run_id=request.header.run_id,
        stage=request.stage,
        trained=models["trained"],
        reward=models.get("reward"),
        reference=models.get("reference"),
        output_model=request.output_model,
        models_dir=models_dir,
        checkpoints_dir=checkpoints_dir,
        seed=request.seed,
        settings=settings,
    )


def _require(request: trainer_pb2.BeginStageRequest, field: str) -> None:
    if not getattr(request, field):
        raise FieldError(field, "", "must not be empty")


def _settings_of(request: trainer_pb2.BeginStageRequest) -> Any:
    which = request.WhichOneof("settings")
    if which is None:
        raise FieldError("settings", None, f"must be one of {', '.join(SETTINGS)}")
    settings = settings_from_pb(SETTINGS[which], getattr(request, which))
    settings.check(which)
    return settings


def settings_from_pb(kind: type[Any], message: Any) -> Any:
    """A settings message as the dataclass of the same field names; nested ones likewise."""
    hints = typing.get_type_hints(kind)
    values = {}
    for field in dataclasses.fields(kind):
        value, hint = getattr(message, field.name), hints[field.name]
        if isinstance(hint, type) and issubclass(hint, StageSettings):
            value = settings_from_pb(hint, value)
        elif typing.get_origin(hint) is list:
            value = list(value)
        values[field.name] = value
    return kind(**values)


def _models_from_pb(models: Iterable[trainer_pb2.StageModel]) -> dict[str, Location]:
    found: dict[str, Location] = {}
    for index, model in enumerate(models):
        role = ROLES.get(model.role)
        if role is None or role in found:
            limit = f"must be one of {', '.join(map(trainer_pb2.ModelRole.Name, ROLES))}, each once"
            raise FieldError(f"models[{index}].role", model.role, limit)
        expected, path = location_from_pb(model.location, f"models[{index}].location")
        found[role] = Location(path, expected)
    if "trained" not in found:
        raise FieldError("models", list(found), "must hold a model of role MODEL_ROLE_TRAINED")
    return found


def _path(uri: str, field: str) -> Path:
    return resolve(uri, field, "must be an absolute path or a file: URI")


def batch_of(request: Any, kind: type[Item]) -> Item:
    """The batch in a step request, or in the file that it names, whose digest must be as stated."""
    which = request.WhichOneof("batch")
    if which is None:
        raise FieldError("batch", None, "must be inline or artifact")
    if which == "inline":
        inline: Item = request.inline
        return inline
    data = _artifact(request.artifact)
    batch: Any = kind()
    try:
        batch.ParseFromString(data)
    except DecodeError:
        raise FieldError("artifact.uri", request.artifact.uri, f"is not a {kind.__name__}") from None
    return typing.cast(Item, batch)


def _artifact(artifact: types_pb2.Artifact) -> bytes:
    path = _path(artifact.uri, "artifact.uri")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FieldError("artifact.uri", artifact.uri, f"cannot be read: {error.strerror}") from None
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != artifact.sha256:
        raise FieldError("artifact.sha256", artifact.sha256, f"the file's SHA-256 is {sha256}")
    return data


def demonstrations_from_pb(batch: trainer_pb2.SftBatch) -> list[Demonstration]:
    """Rows for SFT; one without content stays, as an error of its row."""
    return convert_each("batch.rows", batch.rows, _demonstration_from_pb)


def _demonstration_from_pb(row: trainer_pb2.SftRow, field: str) -> Demonstration:
    if row.WhichOneof("content") == "conversation" and row.conversation.messages:
        return Demonstration(messages=messages_from_pb(row.conversation, f"{field}.conversation"))
    return Demonstration(text=row.text)


def groups_from_pb(batch: trainer_pb2.ComparisonBatch) -> list[Group]:
    """Groups for reward modelling. Raises FieldErrors that name every malformed part."""
    return convert_each("batch.groups", batch.groups, _group_from_pb)


def _group_from_pb(group: trainer_pb2.ComparisonGroup, field: str) -> Group:
    if len(group.responses) < 2:
        raise FieldError(f"{field}.responses", len(group.responses), "must hold at least two responses")
    if not group.preferences:
        raise FieldError(f"{field}.preferences", [], "must hold at least one comparison")
    comparisons = []
    for index, preference in enumerate(group.preferences):
        _check_preference(preference, len(group.responses), f"{field}.preferences[{index}]")
        comparisons.append(
            Comparison(preference.first, preference.second, preference.probability, preference.margin)
        )
    return Group(prompt_from_pb(group, field), list(group.responses), comparisons)


def _check_preference(preference: trainer_pb2.Preference, responses: int, field: str) -> None:
    for side in ("first", "second"):
        if getattr(preference, side) >= responses:
            limit = f"must be the index of one of the {responses} responses"
            raise FieldError(f"{field}.{side}", getattr(preference, side), limit)
    if preference.first == preference.second:
        raise FieldError(f"{field}.second", preference.second, "must not be the first side")
    if not 0 <= preference.probability <= 1:
        raise FieldError(f"{field}.probability", preference.probability, "must be from 0 to 1")
    if not (math.isfinite(preference.margin) and preference.margin >= 0):
        raise FieldError(f"{field}.margin", preference.margin, "must be finite and at least 0")


def fit_from_pb(request: trainer_pb2.FitNormalisationRequest) -> FitNormalisation:
    """The command to fit a normalisation."""
    mean, stddev = request.target_mean, request.target_stddev
    if not math.isfinite(mean):
        raise FieldError("target_mean", mean, "must be a finite number")
    if not (math.isfinite(stddev) and stddev > 0):
        raise FieldError("target_stddev", stddev, "must be above 0")
    samples = convert_each("samples", request.samples, _answered_from_pb)
    header = request.header
    return FitNormalisation(
        header.run_id, header.expected_step, samples, mean, stddev, request.length_controlled
    )


def _answered_from_pb(sample: trainer_pb2.AnsweredPrompt, field: str) -> AnsweredPrompt:
    return AnsweredPrompt(prompt_from_pb(sample, field), sample.response)


def rollouts_from_pb(batch: trainer_pb2.PpoBatch) -> list[ScoredRollout]:
    """Rollouts, unchecked: the door checks them."""
    return [_rollout_from_pb(rollout) for rollout in batch.rollouts]


def _rollout_from_pb(rollout: types_pb2.Rollout) -> ScoredRollout:
    sampling = rollout.sampling
    return ScoredRollout(
        prompt_ids=list(rollout.prompt_ids),
        response_ids=list(rollout.response_ids),
        policy_logprobs=list(rollout.policy_logprobs),
        reference_logprobs=list(rollout.reference_logprobs),
        logprob_kind=LOGPROB_KINDS.get(rollout.logprob_kind, UNSPECIFIED),
        finish_reason=FINISH_REASONS.get(rollout.finish_reason, UNSPECIFIED),
        policy_version=version_from_pb(rollout.policy_version),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        **_score_from_pb(rollout.score),
    )


def _score_from_pb(score: types_pb2.Score) -> dict[str, Any]:
    which = score.WhichOneof("outcome")
    if which == "value":
        return {"score": score.value.normalised, "raw_score": score.value.raw}
    if which == "error":
        said = f"{score.error.reason}: {score.error.message}"
        return {"score_fault": ("score_failed", f"the scorer gave no score ({said})")}
    return {"score_fault": ("score_missing", "the rollout has no score")}


def begun_to_pb(begun: StageBegun, incarnation: str) -> trainer_pb2.StageBegun:
    """The message of a begun stage."""
    return trainer_pb2.StageBegun(incarnation=incarnation, **vars(begun))


def result_to_pb(report: StepReport, timing: Timing) -> trainer_pb2.StepResult:
    """The message that ends a step."""
    outcome = report.outcome
    return trainer_pb2.StepResult(
        step=report.step,
        trained=outcome.trained,
        metrics=outcome.metrics,
        excluded=list(_excluded_to_pb(outcome.excluded)),
        weights_sha256=report.weights_sha256,
        timing=timing_to_pb(timing),
        kl_budget=BUDGETS[outcome.kl_budget],
    )


def _excluded_to_pb(excluded: Iterable[Excluded]) -> Iterator[trainer_pb2.ExcludedRow]:
    for row in excluded:
        yield trainer_pb2.ExcludedRow(row=row.row, reason=row.reason, message=row.message)


def fitted_to_pb(fitted: Normalisation) -> trainer_pb2.FittedNormalisation:
    """The message of a normalisation."""
    return trainer_pb2.FittedNormalisation(**vars(fitted))


def published_to_pb(published: PublishedVersion) -> trainer_pb2.PublishedModel:
    """The message of a published version."""
    location = types_pb2.ModelLocation(version=version_to_pb(published.version), uri=str(published.path))
    return trainer_pb2.PublishedModel(location=location, bytes=published.bytes, seconds=published.seconds)


def checkpoint_to_pb(place: CheckpointPlace) -> trainer_pb2.CheckpointLocation:
    """The message of a checkpoint."""
    return trainer_pb2.CheckpointLocation(uri=str(place.path), sha256=place.sha256, step=place.step)


def checkpoint_from_pb(location: trainer_pb2.CheckpointLocation) -> CheckpointPlace:
    """Where a checkpoint is said to lie."""
    return CheckpointPlace(_path(location.uri, "checkpoint.uri"), location.sha256, location.step)


def state_to_pb(
    standing: Standing, *, incarnation: str, epoch: int, running_request_id: str, deterministic: bool
) -> trainer_pb2.GetStateResponse:
    """The message of where the trainer stands."""
    return trainer_pb2.GetStateResponse(
        incarnation=incarnation,
        stage=standing.stage,
        run_id=standing.run_id,
        epoch=epoch,
        step=standing.step,
        checkpoint=checkpoint_to_pb(standing.checkpoint) if standing.checkpoint else None,
        running_request_id=running_request_id,
        weights_sha256=standing.weights_sha256,
        deterministic=deterministic,
    )
