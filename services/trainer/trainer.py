"""The trainer: one stage at a time, one command at a time, each all or nothing.

It knows neither gRPC nor threads of calls: `execute` runs a command to its end on the thread it is called
on. Commands are plain data, so that under torchrun rank 0 can send each to every rank, which executes it
too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import torch

from services.errors import AlreadyExistsError, FieldError, PreconditionError
from services.hub import fetched
from services.models import load_causal
from services.progress import ProgressFeed
from services.trainer import commands
from services.trainer.checkpoint import read_checkpoint, write_checkpoint
from services.trainer.device import Compute
from services.trainer.optimizers import Learner
from services.trainer.ppo import PpoStage
from services.trainer.preference import PreferenceStage
from services.trainer.records import (
    CheckpointPlace,
    Location,
    Normalisation,
    StageBegun,
    Standing,
    StepOutcome,
    StepReport,
)
from services.trainer.reward_model import RewardModelStage
from services.trainer.sft import SftStage
from services.trainer.stage import Stage
from services.trainer.stages import build_stage, check_plan
from services.trainer.tensor_files import whole_weights
from services.weights import (
    ModelVersion,
    PublishedVersion,
    VersionExists,
    identify,
    publish,
    version_directory,
)

log = logging.getLogger(__name__)

Result = TypeVar("Result")
OneStage = TypeVar("OneStage", bound=Stage)


class Trainer:
    """Executes commands; `standing` may be read from any thread at any time."""

    def __init__(self, compute: Compute) -> None:
        self.compute = compute
        self.standing = Standing()
        self._stage: Stage | None = None
        self._verbs: dict[type[Any], Callable[[Any, ProgressFeed], Any]] = {
            commands.BeginStage: self._begin,
            commands.SftStep: self._sft_step,
            commands.RewardModelStep: self._reward_model_step,
            commands.PpoStep: self._ppo_step,
            commands.PreferenceStep: self._preference_step,
            commands.FitNormalisation: self._fit_normalisation,
            commands.Publish: self._publish,
            commands.RollBack: self._roll_back,
            commands.WriteCheckpoint: self._checkpoint,
            commands.Restore: self._restore,
        }

    def execute(self, command: commands.Command, progress: ProgressFeed) -> Any:
        """Does what the command says and gives its result, or raises and leaves everything as it was."""
        if isinstance(command, commands.OnStage):
            self._check_place(command)
        return self._verbs[type(command)](command, progress)

    def _check_place(self, command: commands.OnStage) -> None:
        """Raises PreconditionError where the caller takes the trainer to be elsewhere."""
        standing = self.standing
        self._check_run(command.run_id)
        if command.expected_step != standing.step:
            reason = "stale_step" if command.expected_step < standing.step else "skipped_step"
            raise PreconditionError(
                reason,
                f"header.expected_step: {command.expected_step}, but {standing.step} steps of stage "
                f"{standing.stage!r} are done",
            )

    def _check_run(self, run_id: str) -> None:
        if self._stage is None:
            raise PreconditionError("no_stage", "no stage has begun: BeginStage comes first")
        if run_id != self.standing.run_id:
            raise PreconditionError(
                "other_run", f"header.run_id: the stage is of run {self.standing.run_id!r}, not {run_id!r}"
            )

    def _begin(self, command: commands.BeginStage, progress: ProgressFeed) -> StageBegun:
        check_plan(command.plan)
        stage, begun = self.compute.ranks.agreed(lambda: build_stage(command.plan, self.compute, progress))
        self._stage = stage
        plan = command.plan
        self.standing = Standing(plan.stage, plan.run_id, 0, None, stage.weights_sha256())
        log.info("stage begun", extra={"stage": plan.stage, "kind": stage.kind, **vars(begun)})
        return begun

    def _sft_step(self, command: commands.SftStep, progress: ProgressFeed) -> StepReport:
        stage = self._stage_of(SftStage)
        return self._step(stage, lambda: stage.step(command.rows, command.expected_step, progress))

    def _ppo_step(self, command: commands.PpoStep, progress: ProgressFeed) -> StepReport:
        stage = self._stage_of(PpoStage)
        return self._step(stage, lambda: stage.step(command.rollouts, command.expected_step, progress))

    def _reward_model_step(self, command: commands.RewardModelStep, progress: ProgressFeed) -> StepReport:
        stage = self._stage_of(RewardModelStage)
        if command.evaluate_only:
            return self._report(stage.evaluate(command.groups, progress))
        return self._step(stage, lambda: stage.step(command.groups, command.expected_step, progress))

    def _preference_step(self, command: commands.PreferenceStep, progress: ProgressFeed) -> StepReport:
        stage = self._stage_of(PreferenceStage)
        if command.evaluate_only:
            return self._report(stage.evaluate(command.pairs, progress))
        return self._step(stage, lambda: stage.step(command.pairs, command.expected_step, progress))

    def _step(self, stage: Stage, train: Callable[[], StepOutcome]) -> StepReport:
        def whole() -> StepOutcome:
            outcome = train()
            for learner in stage.learners.values():
                learner.check_weights(self.compute.ranks)
            return outcome

        outcome = self._all_or_nothing(stage, whole)
        if outcome.trained:
            done = self.standing.step + 1
            self.standing = replace(self.standing, step=done, weights_sha256=stage.weights_sha256())
        return self._report(outcome)

    def _report(self, outcome: StepOutcome) -> StepReport:
        return StepReport(outcome, self.standing.step, self.standing.weights_sha256)

    def _all_or_nothing(self, stage: Stage, change: Callable[[], Result]) -> Result:
        """Runs a change; when it raises, the stage is bit for bit what it was before."""
        before = stage.state().copied()
        try:
            return change()
        except BaseException:
            stage.load_state(before)
            log.warning("undone", extra={"stage": self.standing.stage, "step": self.standing.step})
            raise

    def _fit_normalisation(self, command: commands.FitNormalisation, progress: ProgressFeed) -> Normalisation:
        if not command.samples:
            raise FieldError("samples", [], "must hold at least one sample")
        stage = self._stage_of(RewardModelStage)
        return stage.fit(command, progress)

    def _publish(self, command: commands.Publish, progress: ProgressFeed) -> PublishedVersion:
        stage = self._stage_of(Stage)  # type: ignore[type-abstract]
        return self._write_version(stage, command.number, stage.version, progress)

    def _write_version(
        self, stage: Stage, number: int, parent: ModelVersion, progress: ProgressFeed
    ) -> PublishedVersion:
        """Publishes the stage's model; from then on it is of the new version."""
        plan = stage.plan
        if number < 1:
            raise FieldError("number", number, "published versions count from 1")
        if stage.version.model == plan.output_model and stage.version.number == number:
            parent = stage.parent or parent  # the same version again, after its answer was lost
        progress.report("publishing")
        place = version_directory(plan.models_dir, plan.output_model, number)
        with whole_weights(stage.published, place, self.compute.ranks) as weights:

            def write() -> PublishedVersion:
                return publish(
                    plan.models_dir,
                    plan.output_model,
                    number,
                    lambda directory: stage.write_model(directory, weights),
                    parent=parent,
                    extra=stage.manifest_extra(),
                )

            try:
                published = self.compute.ranks.led(write)
            except VersionExists as error:
                raise AlreadyExistsError(str(error)) from None
        stage.version, stage.parent = published.version, parent
        log.info("published", extra={"version": str(published.version), "bytes": published.bytes})
        return published

    @torch.no_grad()
    def _roll_back(self, command: commands.RollBack, progress: ProgressFeed) -> PublishedVersion:
        stage = self._stage_of(Stage)  # type: ignore[type-abstract]
        learner = _policy_of(stage)
        progress.report("verifying and loading the good version")
        good, weights = self.compute.ranks.agreed(lambda: _good_version(command.good, self.compute))
        _check_same_shape(learner, weights)

        def change() -> PublishedVersion:
            learner.replace_weights(weights)
            return self._write_version(stage, command.number, good, progress)

        published = self._all_or_nothing(stage, change)
        self.standing = replace(self.standing, weights_sha256=stage.weights_sha256())
        return published

    def _checkpoint(self, command: commands.WriteCheckpoint, progress: ProgressFeed) -> CheckpointPlace:
        stage = self._stage_of(Stage)  # type: ignore[type-abstract]
        progress.report("writing the checkpoint")
        place = write_checkpoint(
            stage.plan.checkpoints_dir, stage.plan, self.standing.step, stage.state(), self.compute.ranks
        )
        self.standing = replace(self.standing, checkpoint=place)
        return place

    def _restore(self, command: commands.Restore, progress: ProgressFeed) -> Standing:
        self._check_run(command.run_id)
        stage = self._stage_of(Stage)  # type: ignore[type-abstract]
        progress.report("verifying and reading the checkpoint")
        state = read_checkpoint(command.checkpoint, stage.plan, self.compute.ranks)
        self._all_or_nothing(stage, lambda: stage.load_state(state))
        self.standing = replace(
            self.standing,
            step=command.checkpoint.step,
            checkpoint=command.checkpoint,
            weights_sha256=stage.weights_sha256(),
        )
        return self.standing

    def _stage_of(self, kind: type[OneStage]) -> OneStage:
        if not isinstance(self._stage, kind):
            have = self._stage.kind if self._stage else "none"
            wanted = getattr(kind, "kind", "any")
            raise PreconditionError("wrong_stage", f"the call is for a {wanted} stage; the stage is {have}")
        return self._stage


def _good_version(good: Location, compute: Compute) -> tuple[ModelVersion, dict[str, Any]]:
    """A version to go back to, verified, and its parameters by name."""
    path = fetched(good.path)
    version = identify(path, good.version).version
    loaded = load_causal(path, device=compute.loading_device)
    return version, dict(loaded.model.named_parameters())


def _policy_of(stage: Stage) -> Learner:
    """What learns to be a better policy. Raises PreconditionError for a stage that trains none."""
    if not isinstance(stage, PpoStage | PreferenceStage):
        message = f"the call is for a ppo or preference stage; the stage is {stage.kind}"
        raise PreconditionError("wrong_stage", message)
    return stage.learners["policy"]


def _check_same_shape(policy: Learner, weights: dict[str, Any]) -> None:
    """Raises PreconditionError for a version that is not of the policy's architecture."""
    mine = {name: tuple(p.shape) for name, p in policy.parameters.items()}
    if mine != {name: tuple(p.shape) for name, p in weights.items()}:
        raise PreconditionError("other_model", "good: its weights are not of the trained policy's shape")
