"""A training stage's side of the conversation with the trainer, crash and replay included."""

import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import Message

from orchestrator.mending import Trouble, first_line, trouble_of
from orchestrator.payloads import message_sha256, write_payload
from orchestrator.run import Run, RunError, Stopwatch, location
from orchestrator.sampling import rollouts_path
from orchestrator.seeds import derive
from trueline import CallError
from trueline.channel import MESSAGE_LIMIT_BYTES
from trueline.v1 import trainer_pb2, types_pb2

T = TypeVar("T")
StepCall = Callable[..., Awaitable[trainer_pb2.StepResult]]
AGAIN = "trained-again-"  # and a count: the phase of a step whose replay gave other weights, which were taken

LARGEST_INLINE_BYTES = MESSAGE_LIMIT_BYTES - 2**20  # the header needs little


class TrainingStage:
    """Begins a stage on the trainer, sends its steps, publishes; after a crash, brings the trainer back.

    One round is one step: round 12 is the step whose expected_step is 11. Its request comes from
    `request_of(12)`, which must give the same bytes whenever it is asked, so that a step can be sent
    again under its first request id.

    Where the trainer says that its bits do not repeat, as on a GPU, there is a checkpoint before anybody has
    weights: before every version, and behind the last step, which is measured. A step that was lost before
    that is trained anew.
    """

    def __init__(
        self,
        run: Run,
        name: str,
        begin: trainer_pb2.BeginStageRequest,
        step: StepCall,
        request_of: Callable[[int], Message],
        checkpoint_every: int,
        versions_before: int = 0,
    ) -> None:
        self.run, self.name, self.output = run, name, begin.output_model
        self.begin, self.step, self.request_of = begin, step, request_of
        self.checkpoint_every = checkpoint_every
        self.versions_before = versions_before  # of the same model, made by stages before this one
        self.trainer = run.peers.trainer
        self.deterministic = True  # the trainer, as it said last
        self.recoveries = self.rewrites = 0
        self.refused = False  # by the trainer, as one that stands elsewhere than it seems to

    async def recover(self) -> None:
        """Brings the trainer to where the ledger stands, now and whenever it fails under a call."""
        self.run.orders["trainer"].clear()  # of the stage before, whose model it does not hold any more
        self.run.writers.clear()
        self.run.writers[self.output] = self.publish_again
        await self.run.order("trainer", self.name, self._recover)

    async def _recover(self) -> None:
        """Takes the trainer as it is, or brings it there from checkpoint and replay."""
        trained = self._trained_rounds()
        state = await self.trainer.get_state()
        self.deterministic = state.deterministic
        ours = (state.run_id, state.stage) == (self.run.run_id, self.name)
        if ours and not self.refused and self._stands(state, trained):
            if state.step == trained and self.published(trained) is not None:
                await self._publish(trained)  # it may have failed between a replayed step and this
            return
        self.recoveries, self.refused = self.recoveries + 1, False
        await self._begin()
        start = await self._restore()
        if not self.deterministic and self.published(start) is not None:
            await self._publish(start)  # the checkpoint was written before its version
        for number in range(start + 1, trained + 1):
            await self._replay(number)

    def _stands(self, state: trainer_pb2.GetStateResponse, trained: int) -> bool:
        """True where the living trainer's step and weights are the ledger's.

        One step further is right too: it ended after its orchestrator did, and a repeat gets its answer.
        """
        recorded = self._digests(trained)
        if state.step == trained and recorded:
            return bool(state.weights_sha256 == recorded[-1])
        return state.step in (trained, trained + 1)

    async def train(self, number: int) -> dict[str, Any]:
        """One step; its output is the row that the ledger keeps. Rows that it left out are told."""
        trained = await self.run.durable(self.name, number, "trained", lambda: self._step(number))
        if trained["excluded"]:
            self.run.progress.note(f"{self.name} {number}: left out {trained['excluded']}")
        return trained

    async def train_all(self, steps: int) -> dict[str, Any]:
        """Every step of a stage that has all its data at hand; returns the last step's metrics."""
        if not self.published(steps):
            await self.recover()
        metrics: dict[str, Any] = {}
        for number in range(1, steps + 1):
            row = self.run.ledger.begin_round(self.name, number, 0)
            if (
                row.status == "committed"
            ):  # before a crash: the trainer stands behind it, and it is checkpointed
                metrics = row.metrics
                continue
            watch = Stopwatch()
            trained = await self.train(number)
            await self.checkpoint(number, last=steps)
            metrics = trained["metrics"]
            self.run.ledger.commit_round(self.name, number, metrics, watch.seconds)
            self.run.retainer.apply(self.name)
            self.run.progress.step_done(self.name, number, steps, metrics)
        self._require_rows()
        return metrics

    def _require_rows(self) -> None:
        """RunError where no row of any step trained: a model as it began is no result."""
        outputs = self.run.ledger.all_phases(self.name, "trained").values()
        if outputs and not any(output["metrics"].get("rows", 1) for output in outputs):
            causes: Counter[str] = Counter()
            for output in outputs:
                causes.update(output["excluded"])
            raise RunError(f"stages.{self.name}: no row can train; left out: {dict(causes)}")

    def published(self, number: int) -> dict[str, Any] | None:
        """The ledger's row of version `number`, or None: once it is there the trainer is not needed."""
        return self.run.ledger.phase(self.name, number, "published")

    async def publish(
        self, number: int, first: Callable[[], Awaitable[dict[str, Any]]] | None = None
    ) -> types_pb2.ModelLocation:
        """Publishes the trained model as version `number`, behind those of stages before.

        `first` is done on the trainer before, again wherever publishing is; its output is kept beside it.
        """

        async def work() -> tuple[dict[str, Any], trainer_pb2.PublishedModel]:
            return (await first() if first else {}), await self._publish(number)

        async def produce() -> dict[str, Any]:
            if not self.deterministic:
                await self.checkpoint_now(number)
            kept, published = await self.ask(work)
            version = published.location.version
            self.run.ledger.add_version(
                self.output, version.number, version.sha256, published.location.uri, self.name, number
            )
            return {
                "number": version.number,
                "sha256": version.sha256,
                "uri": published.location.uri,
                "bytes": published.bytes,
                "seconds": published.seconds,
                **kept,
            }

        return location(self.output, await self.run.durable(self.name, number, "published", produce))

    async def checkpoint(self, number: int, last: int) -> None:
        """Writes a checkpoint every so many rounds; behind the last only where its bits do not repeat."""
        if number == last:
            due = not self.deterministic
        else:
            due = bool(self.checkpoint_every) and number % self.checkpoint_every == 0
        if due:
            await self.checkpoint_now(number)

    async def checkpoint_now(self, number: int) -> None:
        """Writes a checkpoint behind step `number`, on which the trainer stands, unless there is one."""
        if any(row["step"] == number for row in self.run.ledger.kept_checkpoints(self.name)):
            return
        header = self._header(number, "checkpoint", expected_step=number)
        with self.run.time.phase("checkpoint"):
            request = trainer_pb2.CheckpointRequest(header=header)
            where = await self.ask(lambda: self.trainer.checkpoint(request))
        self.run.ledger.add_checkpoint(self.name, where.step, where.uri, where.sha256)

    async def publish_again(self, version: int) -> None:
        """Writes a version again whose files were damaged; CallError where the trainer has left it behind."""
        self.rewrites += 1
        number = version - self.versions_before
        what = f"published/again/{self.run.ledger.epoch}/{self.rewrites}"
        header = self._header(number, what, expected_step=number)
        await self.trainer.publish(trainer_pb2.PublishRequest(header=header, number=version))

    async def ask(self, call: Callable[[], Awaitable[T]]) -> T:
        """A call to the trainer, done again from where the ledger stands where the trainer fails under it."""

        async def noted() -> T:
            try:
                return await call()
            except CallError as error:
                self.refused = trouble_of(error) is Trouble.LOST
                raise

        return await self.run.ask("trainer", noted)

    async def _begin(self) -> None:
        request = trainer_pb2.BeginStageRequest()
        request.CopyFrom(self.begin)
        request.header.CopyFrom(self._header(0, f"begin/{self._recovery}", expected_step=0))
        begun = await self.trainer.begin_stage(request)
        if begun.critic_origin_reason:
            self.run.ledger.note(f"{self.name}: {begun.critic_origin_reason}")

    async def _restore(self) -> int:
        """Restores the newest checkpoint whose files are whole; returns the step at which the trainer stands.

        Behind an older one, or at the stage's beginning, the replay is longer and gives the same weights.
        CallError where every checkpoint is damaged and batches from before the oldest are gone.
        """
        kept = self.run.ledger.kept_checkpoints(self.name)
        for row in reversed(kept):
            where = trainer_pb2.CheckpointLocation(uri=row["uri"], sha256=row["sha256"], step=row["step"])
            header = self._header(row["step"], f"restore/{self._recovery}", expected_step=0)
            try:
                await self.trainer.restore(trainer_pb2.RestoreRequest(header=header, checkpoint=where))
                return int(row["step"])
            except CallError as error:
                if error.reason != "checkpoint_damaged" or (row is kept[0] and self._forgot_batches()):
                    raise
                self.run.progress.note(f"{first_line(error)}; going on from an older state")
        return 0

    def _forgot_batches(self) -> bool:
        """True where retention has removed batches that a replay from the beginning would send."""
        return any(row.payloads_removed for row in self.run.ledger.all_rounds(self.name))

    async def _replay(self, number: int) -> None:
        """Sends a recorded step again; the weights must come out as they did, unless nobody had them yet."""
        recorded = self._digests(number)
        repeated = await self._send(number)
        if not recorded or repeated["weights_sha256"] != recorded[-1]:
            if self.deterministic or not recorded or not repeated["trained"] or self._is_kept(number):
                raise RunError(
                    f"replaying {self.name} {number} gave weights {repeated['weights_sha256']}, the ledger "
                    f"has {recorded[-1] if recorded else None}: library versions, threads or processor have "
                    "changed since; resume where they are the same, or start a new run"
                )
            self._take_anew(number, recorded, repeated["weights_sha256"])
        if self.run.ledger.phase(self.name, number, "published") is not None:
            await self._publish(number)

    def _take_anew(self, number: int, recorded: list[str], digest: str) -> None:
        """Records that step `number` now stands for other weights than it did."""
        self.run.ledger.note(
            f"{self.name} {number}: the trainer lost these weights before anybody had them and trained them "
            "anew, to other bits: its device does not repeat them"
        )
        again = {"weights_sha256": digest, "instead_of": recorded[-1]}
        self.run.ledger.finish_phase(self.name, number, f"{AGAIN}{len(recorded)}", again)

    def _is_kept(self, number: int) -> bool:
        """True where the weights behind step `number` or a later one are in a checkpoint or a version."""
        published = self.run.ledger.all_phases(self.name, "published")
        checkpoints = self.run.ledger.kept_checkpoints(self.name)
        return max([*published, *(row["step"] for row in checkpoints)], default=0) >= number

    def _digests(self, number: int) -> list[str]:
        """The digests of the weights behind step `number`: as it was recorded, then as replays changed it."""
        found = [self.run.ledger.phase(self.name, number, "trained")]
        while found[-1] is not None:
            found.append(self.run.ledger.phase(self.name, number, f"{AGAIN}{len(found)}"))
        return [row["weights_sha256"] for row in found if row is not None]

    async def _step(self, number: int) -> dict[str, Any]:
        return await self.ask(lambda: self._send(number))

    async def _send(self, number: int) -> dict[str, Any]:
        request = self.request_of(number)
        request.header.CopyFrom(self._header(number, "trained", expected_step=number - 1))  # type: ignore[attr-defined]
        with fitting_a_message(self.run, self.name, number, request):
            result = await self.step(request)
        self.run.time.computed(result.timing)
        return {**as_row(result), "batch_sha256": batch_sha256(request)}

    async def _publish(self, number: int) -> trainer_pb2.PublishedModel:
        header = self._header(number, "published", expected_step=number)
        version = self.versions_before + number
        return await self.trainer.publish(trainer_pb2.PublishRequest(header=header, number=version))

    @property
    def _recovery(self) -> str:
        """Names this recovery in request ids: a stage begun anew must not be answered from memory."""
        return f"{self.run.ledger.epoch}/{self.recoveries}"

    def _header(self, number: int, what: str, expected_step: int) -> types_pb2.CallHeader:
        return self.run.header(f"{self.name}/{number}/{what}", expected_step)

    def _trained_rounds(self) -> int:
        outputs = self.run.ledger.all_phases(self.name, "trained").values()
        return sum(1 for output in outputs if output["trained"])


def as_row(result: trainer_pb2.StepResult) -> dict[str, Any]:
    """A step's result as the ledger keeps it."""
    excluded: dict[str, int] = {}
    for row in result.excluded:
        excluded[row.reason] = excluded.get(row.reason, 0) + 1
    return {
        "step": result.step,
        "trained": result.trained,
        "metrics": dict(result.metrics),
        "excluded": excluded,
        "excluded_rows": [[row.row, row.reason] for row in result.excluded],
        "weights_sha256": result.weights_sha256,
        "kl_budget": trainer_pb2.KlBudget.Name(result.kl_budget).removeprefix("KL_BUDGET_").lower(),
        "compute_seconds": result.timing.compute_seconds,
    }


def batch_sha256(request: Any) -> str:
    """Digest of what a step trains on, so that the ledger can tell it from every other batch."""
    if request.WhichOneof("batch") == "artifact":
        return str(request.artifact.sha256)
    return message_sha256(request.inline)


@contextlib.contextmanager
def fitting_a_message(run: Run, stage: str, number: int, request: Any) -> Iterator[None]:
    """Has a batch that outgrows a message lie in a file while it is asked about; its digest is the same."""
    if request.WhichOneof("batch") != "inline" or request.inline.ByteSize() <= LARGEST_INLINE_BYTES:
        yield
        return
    payload = write_payload(rollouts_path(run, stage, number) / "batch.pb", request.inline)
    request.artifact.CopyFrom(payload.as_artifact())
    try:
        yield
    finally:
        Path(payload.path).unlink(missing_ok=True)


def settings_message(kind: type[Message], values: dict[str, Any]) -> Any:
    """A recipe's settings as the message of the same field names; nested settings likewise."""
    message = kind()
    for name, value in values.items():
        if isinstance(value, dict):
            nested = getattr(message, name)
            nested.CopyFrom(settings_message(type(nested), value))
        elif isinstance(value, list):
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)
    return message


def begin_request(
    run: Run, stage: str, output: str, models: list[trainer_pb2.StageModel], **settings: Any
) -> trainer_pb2.BeginStageRequest:
    """How a stage begins: its models, the places it writes to, and its settings under their oneof's name."""
    return trainer_pb2.BeginStageRequest(
        stage=stage,
        models=models,
        output_model=output,
        models_uri=str(run.models),
        checkpoints_uri=str((run.directory / "checkpoints" / stage).resolve()),
        seed=derive(run.recipe.seed, stage, "trainer"),
        **settings,
    )


def trained_model(where: types_pb2.ModelLocation) -> trainer_pb2.StageModel:
    """The model that a stage trains."""
    return stage_model(trainer_pb2.MODEL_ROLE_TRAINED, where)


def stage_model(role: "trainer_pb2.ModelRole", where: types_pb2.ModelLocation) -> trainer_pb2.StageModel:
    """A model that a stage is given, by what it is to the stage."""
    return trainer_pb2.StageModel(role=role, location=where)


async def measure(
    stage: TrainingStage, number: int, what: str, step: StepCall, request: Message
) -> dict[str, Any]:
    """The metrics of a step that trains nothing, behind step `number`; durable under `what`."""

    async def produce() -> dict[str, Any]:
        header = stage.run.header(f"{stage.name}/{number}/{what}", expected_step=number)
        request.header.CopyFrom(header)  # type: ignore[attr-defined]
        request.evaluate_only = True  # type: ignore[attr-defined]
        with fitting_a_message(stage.run, stage.name, number, request):
            result = await stage.ask(lambda: step(request))
        stage.run.time.computed(result.timing)
        metrics = as_row(result)["metrics"]
        return {**metrics, "pairs": int(metrics["comparisons"])}  # less those that were too long

    return await stage.run.durable(stage.name, number, what, produce)
