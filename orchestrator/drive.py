"""Drives a run from its recipe to its report: prepare, launch, stages in order, and what went wrong."""

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.exc import DBAPIError

from orchestrator.access import access_of
from orchestrator.data import content_sha256, file_sha256
from orchestrator.ending import failing, is_over, stop_on_signals, unless_stopped, until_done
from orchestrator.engine_plan import try_starts
from orchestrator.evaluation.stage import run_assess
from orchestrator.launcher import REPOSITORY, LocalServices
from orchestrator.leash import CANNOT_RUN
from orchestrator.ledger import Ledger, LedgerError, open_engine
from orchestrator.ledger_place import holds_run, keep_ledger_url, kept_ledger_url, new_ledger_url
from orchestrator.mending import DEADLINES, Mending, Stopped, own_trouble
from orchestrator.metrics import RunMetrics, targets, watched
from orchestrator.metrics_door import MetricsPage
from orchestrator.peers import CLIENTS, Peers
from orchestrator.progress import Progress
from orchestrator.recipe import Recipe, load_recipe
from orchestrator.recipe_settings import HUB
from orchestrator.replicas import find_replicas
from orchestrator.retention import Retainer
from orchestrator.rounds import run_dpo, run_ppo
from orchestrator.run import Run, RunError, Stopwatch
from orchestrator.sources import copy_datasets, data_of, source_path
from orchestrator.stages.collect import run_collect
from orchestrator.stages.comparisons import run_comparisons
from orchestrator.stages.evaluate import run_evaluate
from orchestrator.stages.export import run_export
from orchestrator.stages.judge_check import run_judge_check
from orchestrator.stages.preference import run_preference
from orchestrator.stages.revise import run_revise
from orchestrator.stages.reward import run_reward
from orchestrator.stages.supervised import run_supervised
from orchestrator.whole_files import replaced
from trueline import call_context

RUN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")

StageRunner = Callable[[Run, str, Any], Awaitable[dict[str, Any]]]

STAGES: dict[str, StageRunner] = {
    "pretrain": run_supervised,
    "sft": run_supervised,
    "collect": run_collect,
    "comparisons": run_comparisons,
    "reward": run_reward,
    "ppo": run_ppo,
    "dpo": run_dpo,
    "preference": run_preference,
    "revise": run_revise,
    "judge_check": run_judge_check,
    "evaluate": run_evaluate,
    "assess": run_assess,
    "export": run_export,
}


def checked_name(name: str) -> str:
    """A run's name, which is a directory's too. LedgerError for one that would lead elsewhere."""
    if not RUN_NAME.fullmatch(name):
        raise LedgerError(f"a run's name holds letters, digits, '.', '_' and '-' only, is {name!r}")
    return name


def new_run(
    recipe_path: Path, directory: Path, overrides: list[str], seed: int | None, ledger_url: str | None = None
) -> Ledger:
    """Makes the run's directory and first row; the recipe as resolved is kept beside the ledger."""
    recipe = load_recipe(recipe_path, overrides, seed, directory)
    if holds_run(directory):
        if open_run(directory).exists():
            raise LedgerError(f"{directory} holds a run already: resume it, or choose another name")
        ledger_url = kept_ledger_url(directory, None)
    url = new_ledger_url(directory, ledger_url)
    there_before = directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    try:
        keep_recipe(directory, recipe)
        keep_ledger_url(directory, url)
        return first_row(Ledger(open_engine(url), directory.name), recipe)
    except LedgerError:
        if not there_before:
            shutil.rmtree(directory)  # a run that never began
        raise


def first_row(ledger: Ledger, recipe: Recipe) -> Ledger:
    """The ledger with the run's own row in it."""
    ledger.create(
        seed=recipe.seed, recipe=recipe.declared, recipe_sha256=recipe.sha256, code_sha256=code_digest()
    )
    return ledger


def open_run(directory: Path, ledger_url: str | None = None) -> Ledger:
    """The ledger of a run that exists."""
    return Ledger(open_engine(kept_ledger_url(directory, ledger_url)), directory.name)


def resumed_run(directory: Path, ledger_url: str | None = None) -> Ledger:
    """As open_run; the first row too, where who began the run died before it and the ledger is its own."""
    ledger = open_run(directory, ledger_url)
    if ledger_url is None and not ledger.exists() and (directory / "recipe.yaml").exists():
        return first_row(ledger, load_recipe(directory / "recipe.yaml", run_dir=directory))
    return ledger


def same_run(
    recipe_path: Path, directory: Path, overrides: list[str], seed: int | None, ledger_url: str | None = None
) -> Ledger:
    """The ledger of a run that exists, of this very recipe. RunError where the run began with another.

    Who serves it may have changed since: the recipe that is kept gets the addresses of this one.
    """
    recipe = load_recipe(recipe_path, overrides, seed, directory)
    ledger = open_run(directory, ledger_url)
    if not ledger.exists():
        return first_row(ledger, recipe)
    recorded = ledger.info()["recipe_sha256"]
    if recipe.sha256 != recorded:
        raise RunError(
            f"{directory} holds a run of another recipe (SHA-256 {recorded}; {recipe_path} has "
            f"{recipe.sha256}): choose another name, or resume that run"
        )
    keep_recipe(directory, recipe)
    return ledger


def keep_recipe(directory: Path, recipe: Recipe) -> None:
    """Writes the recipe as resolved into the run's directory, for a resume."""
    with replaced(directory / "recipe.yaml") as file:
        file.write((json.dumps(recipe.declared, indent=2) + "\n").encode())


async def drive(directory: Path, ledger: Ledger, progress: Progress, page: MetricsPage | None = None) -> bool:
    """Takes the lease and goes on from where the ledger stands, to the end; True when it was reached.

    False when somebody asked the run to stop. On a page the run's numbers are shown.
    """
    stopping = asyncio.Event()
    with only_one(directory), stop_on_signals(stopping):
        return await drive_alone(directory, ledger, progress, stopping, page)


async def drive_alone(
    directory: Path,
    ledger: Ledger,
    progress: Progress,
    stopping: asyncio.Event,
    page: MetricsPage | None = None,
) -> bool:
    """As drive, where nobody else on this machine drives the run; `stopping` asks it to stop."""
    recipe = recorded_recipe(directory, ledger)
    ledger.take_lease()
    if is_over(recipe, ledger):
        return True
    Retainer(ledger, directory, recipe.retention).sweep(local_writers=not recipe.services.trainer.addresses)
    with call_context(run=ledger.run):
        try:
            await prepare(recipe, directory, stopping)
            recipe.require_inputs()
            await unless_stopped(stopping, "data sets were copied", copy_datasets, recipe, directory)
            models = await unless_stopped(stopping, "models were read", model_digests, recipe)
        except Stopped:
            ledger.set_run(status="stopped")
            return False
        check_digests(ledger, data_digests(recipe, directory), models)
        ledger.set_run(status="running")
        with watched(ledger, recipe, progress, page) as (told, metrics), failing(ledger):
            return await drive_stages(recipe, directory, ledger, told, stopping, metrics, page)


async def drive_stages(
    recipe: Recipe,
    directory: Path,
    ledger: Ledger,
    progress: Progress,
    stopping: asyncio.Event,
    metrics: RunMetrics | None = None,
    page: MetricsPage | None = None,
) -> bool:
    """Starts the services and runs the stages on them; True when the end was reached."""
    limits, tell = recipe.supervision, progress.note
    async with (
        LocalServices(
            recipe.services, directory, only=recipe.needed_services, supervision=limits, tell=tell
        ) as local,
        find_replicas(local.addresses, limits.patience_seconds, tell, stopping) as where,
        Peers(where, limits, tell, access_of(recipe.services)) as peers,
    ):

        def stuck(service: str, deadlines: int, began: float) -> None:
            if service in CLIENTS:
                peers.reconnect(service)
            if deadlines % DEADLINES == 0:
                local.kill_stuck(service, began, f"killed: {DEADLINES} calls missed their deadlines")

        run = Run(recipe, directory, ledger, peers, progress, Mending(limits, stopping, tell, stuck))
        if metrics is not None:
            metrics.follow(run.time, run.mending)
        with targets(directory, page, local.metrics_addresses):
            finished = await until_done(run_stages(run), local.died, ledger)
            if finished and page is not None:
                await page.lingering(stopping)
        before, now = ledger.info()["peak_memory_bytes"] or {}, local.peak_memory_bytes()
        most = {name: max(before.get(name, 0), now.get(name, 0)) for name in {**before, **now}}
        ledger.set_run(peak_memory_bytes=most)
        return finished


async def run_stages(run: Run) -> None:
    """Every stage that is not finished, in order."""
    count = len(run.recipe.stages)
    for position, (name, settings) in enumerate(run.recipe.stages.items(), start=1):
        row = run.ledger.begin_stage(name, settings.kind, position)
        if row["status"] == "finished":
            continue
        if position == 1 and "policy" not in settings.services:  # one that samples loads its model itself
            await try_starts(run)
        run.progress.stage_started(name, settings.kind, position, count, getattr(settings, "rounds", 0))
        # A stage goes on from what the ledger has: where disk or database fail it, it is simply begun again.
        stage = partial(run_stage, run, name, settings)
        seconds = await run.mending.persist("the ledger", stage, cause=own_trouble)
        run.progress.stage_finished(name, seconds)


async def run_stage(run: Run, name: str, settings: Any) -> float:
    """One stage, from where the ledger stands to its end; returns the seconds that this took."""
    watch, run.stage = Stopwatch(), name
    try:
        result = await STAGES[settings.kind](run, name, settings)
    finally:
        # In every ending, so that a resumed stage's seconds add up.
        with contextlib.suppress(LedgerError, DBAPIError):
            run.ledger.add_stage_seconds(name, watch.seconds)
    overhead = run.time.overhead_fraction(watch.start, watch.start + watch.seconds)
    run.ledger.finish_stage(name, {**result, "overhead_fraction": overhead})
    return watch.seconds


def recorded_recipe(directory: Path, ledger: Ledger) -> Recipe:
    """The recipe as the run began with it. RunError when somebody has changed it since."""
    recipe = load_recipe(directory / "recipe.yaml", run_dir=directory)
    recorded = ledger.info()["recipe_sha256"]
    if recipe.sha256 != recorded:
        raise RunError(
            f"{directory / 'recipe.yaml'} has changed since the run began (SHA-256 {recipe.sha256}, "
            f"recorded {recorded}): put it back, or start a new run"
        )
    return recipe


async def prepare(recipe: Recipe, directory: Path, stopping: asyncio.Event) -> None:
    """Runs the recipe's prepare command once; its output counts only when it ended well.

    It ends with us, and when the run is told to stop.
    """
    done = directory / "prepared" / ".done"
    if recipe.prepare is None or done.exists():
        return
    code, said = await leashed(recipe.prepare.command, stopping)
    if code == CANNOT_RUN:
        raise RunError(f"prepare: {said.strip()}")
    if code != 0:
        raise RunError(f"prepare: {' '.join(recipe.prepare.command)} ended with {code}\n{said[-2000:]}")
    done.parent.mkdir(parents=True, exist_ok=True)
    done.touch()


async def leashed(command: list[str], stopping: asyncio.Event) -> tuple[int, str]:
    """Runs a command that cannot outlive us; its exit code and what it said on stderr."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "orchestrator.leash", *command),
        cwd=REPOSITORY,
        stdin=pipe,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=pipe,
        start_new_session=True,
    )
    assert process.stderr is not None
    said, stopped = asyncio.ensure_future(process.stderr.read()), asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({said, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not said.done():
            raise Stopped("stopped while it was preparing")
        return await process.wait(), said.result().decode(errors="replace")
    finally:
        stopped.cancel()
        said.cancel()
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


def check_digests(ledger: Ledger, data: dict[str, str], models: dict[str, str]) -> None:
    """Records the digests of data, models and code, or compares with those that the run began with.

    A run that began before models had digests is compared by its data alone.
    """
    info, found = ledger.info(), {**data, **models}
    known = info["data_sha256"]
    if not known:
        ledger.set_run(data_sha256=found)
    compared = data.keys() | (known.keys() & models.keys())
    changed = sorted(path for path in compared if known and known.get(path) != found[path])
    if changed:
        raise RunError(
            f"data or models changed since the run began: {', '.join(changed)}; put back what was there, or "
            "start a new run"
        )
    if info["code_sha256"] != code_digest():
        ledger.note(
            "the code changed while the run was under way: its weights may differ from an unbroken run's"
        )


def data_digests(recipe: Recipe, directory: Path) -> dict[str, str]:
    """SHA-256 of every data file that a stage reads, and of the judge's constitution, by path."""
    paths = {str(source_path(data, directory)) for data in data_of(recipe)}
    if "judge" in recipe.needed_services and recipe.services.judge.constitution is not None:
        paths.add(recipe.services.judge.constitution)
    return {path: file_sha256(Path(path)) for path in sorted(paths)}


def model_digests(recipe: Recipe) -> dict[str, str]:
    """SHA-256 over all files of every model directory that the recipe names, as this machine reads them.

    What lies at the same path on the disk of a service elsewhere is not seen. A hub name has no digest here:
    the run keeps the commit that is served first.
    """
    places = sorted({place for place in recipe.models.values() if not place.startswith(HUB)})
    return {place: content_sha256(Path(place)) for place in places}


def code_digest() -> str:
    """SHA-256 over the sources of orchestrator, services and protos."""
    digest = hashlib.sha256()
    for folder in ("orchestrator", "services", "protos"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            digest.update(path.relative_to(REPOSITORY).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


@contextlib.contextmanager
def only_one(directory: Path) -> Iterator[None]:
    """RunError where an orchestrator of this machine drives the run: a mistaken resume takes no lease.

    The lock goes with its process, however that ends. Those on other machines are fenced by the epoch.
    """
    with (directory / "orchestrator.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"{directory} is being driven by another orchestrator; stop that one first"
            ) from None
        yield
