"""A trainer that loses its memory is brought to where the ledger stands, and no step is trained twice."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status

from orchestrator.launcher import REPOSITORY
from orchestrator.ledger import Ledger, open_engine, sqlite_url
from orchestrator.mending import Mending
from orchestrator.peers import Peers
from orchestrator.progress import PlainProgress
from orchestrator.recipe import load_recipe
from orchestrator.recipe_settings import Supervision
from orchestrator.run import Run, RunError
from orchestrator.training import TrainingStage
from services.errors import AlreadyExistsError, FieldError, PreconditionError
from services.status import rich_status, status_of
from trueline import CallError
from trueline.v1 import trainer_pb2, trainer_pb2_grpc, types_pb2


class Trainer(trainer_pb2_grpc.TrainerServiceServicer):
    """Its weights are the digest of the steps it has done; `breaks` ends the process in that many steps.

    Without `deterministic` each incarnation of it comes to other weights by the same step.
    """

    def __init__(self, log: list[str], deterministic: bool = True) -> None:
        self.log, self.stage, self.run_id, self.done = log, "", "", list[str]()
        self.deterministic, self.deaths, self.dies_at = deterministic, 0, ""
        self.checkpoints: dict[str, list[str]] = {}
        self.versions: dict[int, str] = {}
        self.breaks_after = 10**9
        self.metrics: dict[str, float] = {}
        self.broken = asyncio.Event()

    @property
    def weights(self) -> str:
        return hashlib.sha256("".join(self.done).encode()).hexdigest()

    def die(self) -> None:
        """Loses all but what lies on the disk."""
        self.stage, self.run_id, self.done, self.deaths = "", "", [], self.deaths + 1

    async def GetState(self, request: Any, context: Any) -> trainer_pb2.GetStateResponse:
        return trainer_pb2.GetStateResponse(
            stage=self.stage,
            run_id=self.run_id,
            step=len(self.done),
            weights_sha256=self.weights,
            deterministic=self.deterministic,
        )

    async def BeginStage(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.log.append(f"begin {request.header.request_id}")
        self.stage, self.run_id, self.done = request.stage, request.header.run_id, []
        yield trainer_pb2.BeginStageResponse(begun=trainer_pb2.StageBegun())

    async def SftStep(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self._place(request, context)
        yield trainer_pb2.SftStepResponse(progress=types_pb2.Progress(activity="training"))
        self.log.append(f"step {request.header.request_id}")
        self.breaks_after -= 1
        if self.breaks_after < 0:
            self.broken.set()
            await asyncio.sleep(60)
        salt = "" if self.deterministic else f" after {self.deaths} deaths"
        self.done.append(request.header.request_id + salt)
        result = trainer_pb2.StepResult(step=len(self.done), trained=True, weights_sha256=self.weights)
        result.metrics.update(self.metrics)
        result.excluded.extend(trainer_pb2.ExcludedRow(reason="too_long") for _ in self.metrics)
        yield trainer_pb2.SftStepResponse(result=result)

    async def Publish(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self._place(request, context)
        self.log.append(f"publish {request.header.request_id}")
        if self.versions.setdefault(request.number, self.weights) != self.weights:
            error = AlreadyExistsError(f"version {request.number} holds other bytes")
            await context.abort_with_status(rpc_status.to_status(rich_status(*status_of(error))))
        version = types_pb2.ModelVersion(model="out", number=request.number, sha256=self.weights)
        where = types_pb2.ModelLocation(version=version, uri=f"/models/out/v{request.number:06d}")
        yield trainer_pb2.PublishResponse(published=trainer_pb2.PublishedModel(location=where))

    async def Checkpoint(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self._place(request, context)
        uri = f"/checkpoints/{len(self.done)}"
        self.checkpoints[uri] = list(self.done)
        where = trainer_pb2.CheckpointLocation(uri=uri, sha256=self.weights, step=len(self.done))
        yield trainer_pb2.CheckpointResponse(checkpoint=where)

    async def Restore(self, request: Any, context: Any) -> AsyncIterator[Any]:
        uri = request.checkpoint.uri
        self.log.append(f"restore {uri}")
        if uri not in self.checkpoints:
            error = FieldError("checkpoint.uri", uri, "is damaged", "checkpoint_damaged")
            await context.abort_with_status(rpc_status.to_status(rich_status(*status_of(error))))
        self.done = list(self.checkpoints[uri])
        yield trainer_pb2.RestoreResponse(state=trainer_pb2.GetStateResponse(step=len(self.done)))

    async def _place(self, request: Any, context: Any) -> None:
        if self.dies_at and isinstance(request, getattr(trainer_pb2, f"{self.dies_at}Request")):
            self.dies_at = ""
            self.die()
        if request.header.expected_step != len(self.done) or not self.stage:
            error = PreconditionError("stale_step", f"{len(self.done)} steps are done")
            await context.abort_with_status(rpc_status.to_status(rich_status(*status_of(error))))


@contextlib.asynccontextmanager
async def served(
    log: list[str], port: int = 0, deterministic: bool = True
) -> AsyncIterator[tuple[int, Trainer]]:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    trainer = Trainer(log, deterministic)
    trainer_pb2_grpc.add_TrainerServiceServicer_to_server(trainer, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield bound, trainer
    finally:
        await server.stop(0)


@contextlib.asynccontextmanager
async def a_run(tmp_path: Path, port: int) -> AsyncIterator[Run]:
    recipe = load_recipe(REPOSITORY / "recipes" / "helpdesk-ppo.yaml", run_dir=tmp_path)
    ledger = Ledger(open_engine(sqlite_url(tmp_path)), "r")
    ledger.create(seed=0, recipe=recipe.declared, recipe_sha256=recipe.sha256, code_sha256="c")
    ledger.take_lease()
    addresses = {"policy": [], "reference": [], "reward": [], "trainer": [f"127.0.0.1:{port}"]}
    limits = Supervision(patience_seconds=60.0, silence_seconds=20.0)
    progress = PlainProgress((tmp_path / "told").open("w"))
    async with Peers(addresses, limits) as peers:
        mending = Mending(limits, asyncio.Event(), progress.note)
        yield Run(recipe, tmp_path, ledger, peers, progress, mending)


def stage_of(run: Run, checkpoint_every: int = 0) -> TrainingStage:
    begin = trainer_pb2.BeginStageRequest(stage="sft", output_model="out")
    request = trainer_pb2.SftStepRequest
    return TrainingStage(
        run, "sft", begin, run.peers.trainer.sft_step, lambda number: request(), checkpoint_every
    )


async def test_a_trainer_that_dies_in_a_step_replays_the_ledgers_and_does_the_step_under_its_first_id(
    tmp_path: Path,
) -> None:
    before, after = list[str](), list[str]()
    async with contextlib.AsyncExitStack() as first:
        port, dying = await first.enter_async_context(served(before))
        dying.breaks_after = 2
        async with a_run(tmp_path, port) as run:
            stage = stage_of(run)
            training = asyncio.create_task(stage.train_all(3))
            await asyncio.wait_for(dying.broken.wait(), 30)
            await first.aclose()
            async with served(after, port) as (_, reborn):
                await asyncio.wait_for(training, 60)
                where = await stage.publish(3)
            assert reborn.done == [f"sft/{number}/trained" for number in (1, 2, 3)]
            assert where.version.sha256 == reborn.weights
            rows = run.ledger.all_phases("sft", "trained")
            assert [rows[number]["step"] for number in (1, 2, 3)] == [1, 2, 3]
    assert before == ["begin sft/0/begin/1/1", *(f"step sft/{number}/trained" for number in (1, 2, 3))]
    assert after == [
        "begin sft/0/begin/1/2",  # a new id: no memory may answer it
        *(f"step sft/{number}/trained" for number in (1, 2, 3)),
        "publish sft/3/published",
    ]


async def test_a_stage_writes_no_version_again_that_a_stage_before_it_made(tmp_path: Path) -> None:
    async with served([]) as (port, _), a_run(tmp_path, port) as run:
        await stage_of(run).recover()
        assert list(run.writers) == ["out"]
        later = stage_of(run)
        later.name, later.output = "ppo", "policy"
        later.begin = trainer_pb2.BeginStageRequest(stage="ppo", output_model="policy")
        await later.recover()
        assert list(run.writers) == ["policy"]


async def test_a_trainer_that_stands_elsewhere_than_it_should_is_begun_anew(tmp_path: Path) -> None:
    log = list[str]()
    async with served(log) as (port, trainer), a_run(tmp_path, port) as run:
        stage = stage_of(run)
        await stage.recover()
        run.ledger.begin_round("sft", 1, 0)
        await stage.train(1)
        trainer.done.append("a step that the ledger never heard of")
        trainer.done.append("and another")
        await stage.publish(1)
    assert log == [
        "begin sft/0/begin/1/1",
        "step sft/1/trained",
        "begin sft/0/begin/1/2",
        "step sft/1/trained",
        "publish sft/1/published",
    ]


async def test_a_replay_that_gives_other_weights_ends_the_run(tmp_path: Path) -> None:
    async with served([]) as (port, trainer), a_run(tmp_path, port) as run:
        stage = stage_of(run)
        await stage.recover()
        run.ledger.begin_round("sft", 1, 0)
        trainer.done = []
        row = await stage.train(1)
        trainer.stage, trainer.done = "", []
        run.ledger.finish_phase("sft", 2, "trained", {**row, "weights_sha256": "0" * 64})
        with pytest.raises(Exception, match="replaying sft 2 gave weights"):
            await stage.publish(2)


async def test_a_stage_of_which_no_row_can_train_ends_the_run_and_says_why(tmp_path: Path) -> None:
    async with served([]) as (port, trainer), a_run(tmp_path, port) as run:
        trainer.metrics = {"rows": 0.0}
        with pytest.raises(RunError, match=r"stages\.sft: no row can train; left out: {'too_long': 2}"):
            await stage_of(run).train_all(2)


@pytest.mark.parametrize(("damaged", "restored"), [([4], [4, 2]), ([4, 2], [4, 2])])
async def test_a_damaged_checkpoint_costs_a_longer_replay(
    tmp_path: Path, damaged: list[int], restored: list[int]
) -> None:
    async with served([]) as (port, trainer), a_run(tmp_path, port) as run:
        stage = stage_of(run, checkpoint_every=2)
        await stage.train_all(5)
        done, trainer.stage, trainer.done = trainer.done, "", []
        for step in damaged:
            del trainer.checkpoints[f"/checkpoints/{step}"]
        trainer.log.clear()
        await stage.publish(5)
        assert trainer.done == done
    start = 2 if damaged == [4] else 0
    assert trainer.log == [
        "begin sft/0/begin/1/2",
        *(f"restore /checkpoints/{step}" for step in restored),
        *(f"step sft/{number}/trained" for number in range(start + 1, 6)),
        "publish sft/5/published",
    ]
    assert "going on from an older state" in (tmp_path / "told").read_text()


async def test_damaged_checkpoints_end_the_run_where_batches_are_gone(tmp_path: Path) -> None:
    async with served([]) as (port, trainer), a_run(tmp_path, port) as run:
        stage = stage_of(run, checkpoint_every=2)
        await stage.train_all(3)
        run.ledger.remove_payloads("sft", [1])
        trainer.stage, trainer.done, trainer.checkpoints = "", [], {}
        with pytest.raises(CallError, match="is damaged") as caught:
            await stage.publish(3)
    assert caught.value.reason == "checkpoint_damaged"


async def a_round(stage: TrainingStage, number: int, between: Callable[[], None] = lambda: None) -> None:
    stage.run.ledger.begin_round("sft", number, 0)
    await stage.train(number)
    between()
    await stage.publish(number)
    await stage.checkpoint(number, last=9)


@pytest.mark.parametrize("behind", ["trained", "its checkpoint", "published"])
async def test_a_trainer_whose_bits_do_not_repeat_may_die_behind_any_row(tmp_path: Path, behind: str) -> None:
    async with served([], deterministic=False) as (port, trainer), a_run(tmp_path, port) as run:
        stage = stage_of(run, checkpoint_every=10)
        await stage.recover()
        await a_round(stage, 1)
        trainer.dies_at = "Publish" if behind == "its checkpoint" else ""
        await a_round(stage, 2, trainer.die if behind == "trained" else lambda: None)
        if behind == "published":
            trainer.die()
        await a_round(stage, 3)
        assert trainer.deaths == 1
        kept = {row["number"]: row["sha256"] for row in run.ledger.all_versions()}
        assert kept == trainer.versions and kept[3] == trainer.weights
        lost = behind == "trained"
        assert [each.partition(": the trainer lost")[0] for each in run.ledger.info()["notes"]] == (
            ["sft 2"] if lost else []
        )
        first, again = (run.ledger.phase("sft", 2, name) for name in ("trained", "trained-again-1"))
        assert first is not None and (again is not None) == lost
        assert (again or first)["weights_sha256"] == kept[2]
        assert again is None or again["instead_of"] == first["weights_sha256"] != kept[2]


async def test_steps_that_nobody_has_seen_are_trained_anew_each_time_that_they_are_lost(
    tmp_path: Path,
) -> None:
    async with served([], deterministic=False) as (port, trainer), a_run(tmp_path, port) as run:
        stage = stage_of(run, checkpoint_every=2)
        await stage.recover()
        for number in (1, 2, 3):
            run.ledger.begin_round("sft", number, 0)
            await stage.train(number)
            await stage.checkpoint(number, last=9)
        for _ in range(2):
            trainer.die()
            await stage.recover()
        assert [run.ledger.phase("sft", 3, f"trained-again-{count}") is not None for count in (1, 2, 3)] == [
            True,
            True,
            False,
        ]
        await stage.checkpoint(3, last=3)  # what is measured on the last step's weights is measured on these
        trainer.die()
        where = await stage.publish(3)
        assert where.version.sha256 == stage._digests(3)[-1] == trainer.weights
        assert len(run.ledger.info()["notes"]) == 1


async def test_a_version_whose_checkpoint_is_damaged_is_not_trained_to_other_weights(tmp_path: Path) -> None:
    async with served([], deterministic=False) as (port, trainer), a_run(tmp_path, port) as run:
        stage = stage_of(run)
        await stage.recover()
        await a_round(stage, 1)
        trainer.die()
        trainer.checkpoints.clear()
        run.ledger.begin_round("sft", 2, 0)
        with pytest.raises(RunError, match="replaying sft 1 gave weights"):
            await stage.train(2)
