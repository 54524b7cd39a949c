"""python -m orchestrator: demo, run, resume, status, report, evaluate, verify, export."""

import argparse
import asyncio
import importlib.util
import json
import logging
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from orchestrator import comparison_commands, judge_commands
from orchestrator.data import DataError
from orchestrator.drive import checked_name, drive, new_run, open_run, resumed_run, same_run
from orchestrator.evaluation.command import add_evaluate
from orchestrator.evaluation.question import evaluation
from orchestrator.evaluation.subjects import EvaluationError
from orchestrator.export import ExportError, export_model
from orchestrator.launcher import REPOSITORY, LaunchError, ServiceDied
from orchestrator.ledger import Ledger, LedgerError
from orchestrator.ledger_place import VARIABLE, holds_run
from orchestrator.metrics_door import MetricsDoor, add_flags, door_of, serving
from orchestrator.payloads import PayloadError
from orchestrator.peers import MixedVersions
from orchestrator.progress import choose_progress
from orchestrator.recipe import RecipeError, load_recipe
from orchestrator.replicas import ReplicasMissing
from orchestrator.report import print_report, write_report
from orchestrator.run import RunError
from orchestrator.summary import model_card, summarise
from orchestrator.verify import verify
from trueline import CallError

DEMOS = {way: REPOSITORY / "recipes" / f"helpdesk-{way}.yaml" for way in ("ppo", "dpo", "constitution")}
TOLD = (
    CallError,
    DataError,
    EvaluationError,
    ExportError,
    LaunchError,
    LedgerError,
    MixedVersions,
    PayloadError,
    RecipeError,
    ReplicasMissing,
    RunError,
    ServiceDied,
    OSError,
    SQLAlchemyError,
)
STOPPED = 130  # what a shell gives a program that Ctrl-C ended


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; 0 when it did what it says, 1 when it could not, 130 when it was stopped."""
    options = parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except BrokenPipeError:  # whoever read our output has enough, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except TOLD as error:
        print(f"trueline: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("trueline: stopped at once; nothing durable is lost", file=sys.stderr)
        return STOPPED


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m orchestrator", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", help="the embedded helpdesk world, from nothing to a report")
    demo.add_argument("way", nargs="?", choices=DEMOS, default="ppo", help="how it learns (default: ppo)")
    demo.add_argument("--seed", type=int, help="the run's seed instead of the recipe's")
    demo.set_defaults(command=demo_command)
    run = commands.add_parser("run", help="run a recipe")
    run.add_argument("recipe", type=Path, help="a YAML file, such as those in recipes/")
    run.add_argument("--name", help="the run's name; the recipe's own without it")
    run.add_argument("--seed", type=int, help="the run's seed instead of the recipe's")
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        dest="overrides",
        help="changes one setting, such as stages.ppo.rounds=10; may be repeated",
    )
    run.add_argument(
        "--or-resume",
        action="store_true",
        help="where the run is there already, go on with it; its recipe must be the same",
    )
    run.add_argument(
        "--elect",
        metavar="LEASE",
        help="in Kubernetes: drive only while this Lease is held, stand by while another holds it",
    )
    run.add_argument(
        "--probe-address",
        metavar="HOST:PORT",
        help="with --elect: where /healthz and /readyz are answered",
    )
    run.set_defaults(command=run_command)
    for name, command, text in (
        ("resume", resume_command, "go on with a run that was stopped or died"),
        ("status", status_command, "where runs stand; every run without RUN"),
        ("report", report_command, "write and show a run's report"),
        ("verify", verify_command, "recount a run from its ledger and files: nothing lost, nothing twice"),
        ("export", export_command, "copy a run's model out as a plain Hugging Face directory"),
    ):
        sub = commands.add_parser(name, help=text)
        sub.add_argument("run", nargs="?" if name == "status" else None, help="the run's name")
        sub.set_defaults(command=command)
        if name in ("report", "verify"):
            sub.add_argument("--json", action="store_true", help="print JSON and nothing else")
        if name == "export":
            sub.add_argument("directory", type=Path, help="where to; must be empty or not exist")
            sub.add_argument("--model", help="which model; the newest published one without it")
    for name in ("demo", "run", "resume"):
        add_flags(commands.choices[name])
    judge_commands.add_commands(commands)
    comparison_commands.add_commands(commands)
    add_evaluate(commands).set_defaults(command=evaluate_command)
    for sub in commands.choices.values():
        sub.add_argument(
            "--runs", type=Path, default=Path("runs"), help="directory of all runs (default: runs)"
        )
        sub.add_argument(
            "--ledger",
            metavar="URL",
            help="the ledger's database, such as postgresql://user@host/name; a run keeps the one it began "
            f"with (default: {VARIABLE}, else a file beside the run)",
        )
    return top


def demo_command(options: argparse.Namespace) -> int:
    """A fresh run of the embedded recipe; where there is one already, beside it under the next free name."""
    recipe, count = DEMOS[options.way], 1
    directory = options.runs / recipe.stem
    while directory.exists():
        count += 1
        directory = options.runs / f"{recipe.stem}-{count}"
    if count > 1:
        print(f"this run is {directory}: there are earlier ones", file=sys.stderr)
    return go(directory, new_run(recipe, directory, [], options.seed, options.ledger), door_of(options))


def run_command(options: argparse.Namespace) -> int:
    """A new run of a recipe; with --or-resume the one that is there, as a restarted pod finds it."""
    if options.elect:
        return stand_for(options)
    return go(*begin_run(options), door_of(options))


def begin_run(options: argparse.Namespace) -> tuple[Path, Ledger]:
    """The run that the options name, begun or found."""
    name = options.name
    if name is None:
        name = load_recipe(options.recipe, options.overrides).name
    directory = options.runs / checked_name(name)
    begin = same_run if options.or_resume and holds_run(directory) else new_run
    return directory, begin(options.recipe, directory, options.overrides, options.seed, options.ledger)


def stand_for(options: argparse.Namespace) -> int:
    """Drives the run while the Lease is held, as one of several orchestrators of a cluster."""
    if not options.or_resume:
        raise RunError("--elect needs --or-resume: whoever takes over goes on with the run that is there")
    if importlib.util.find_spec("kubernetes") is None:
        raise RunError("--elect needs the client of Kubernetes: pip install 'trueline[kubernetes]'")
    from orchestrator.cluster.leading import stand

    logging.basicConfig(format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("orchestrator").setLevel(logging.INFO)
    progress = choose_progress()
    try:
        begin, elect = partial(begin_run, options), (options.elect, options.probe_address)
        with serving(door_of(options)) as page:
            asyncio.run(stand(*elect, begin, show_report, progress, page=page))
    finally:
        progress.close()
    return 0  # told to stop, and that it did


def resume_command(options: argparse.Namespace) -> int:
    """Goes on from the last durable phase."""
    directory = options.runs / checked_name(options.run)
    return go(directory, resumed_run(directory, options.ledger), door_of(options))


def evaluate_command(options: argparse.Namespace) -> int:
    """An evaluation, from where it stands to its report."""
    directory, ledger = evaluation(options)
    if ledger.info()["status"] != "finished" and not driven(directory, ledger):
        print("stopped at a durable point; the same command goes on", file=sys.stderr)
        return STOPPED
    if options.json:
        write_report(summarise(ledger), directory)
        print(json.dumps(summarise(ledger), indent=2, sort_keys=True))
    else:
        show_report(directory, ledger)
    return 0


def go(directory: Path, ledger: Ledger, metrics: MetricsDoor | None = None) -> int:
    """Drives a run and shows its report."""
    if not driven(directory, ledger, metrics):
        print(
            f"stopped at a durable point; go on with: python -m orchestrator resume {ledger.run}",
            file=sys.stderr,
        )
        return STOPPED
    show_report(directory, ledger)
    return 0


def driven(directory: Path, ledger: Ledger, metrics: MetricsDoor | None = None) -> bool:
    """Drives a run; True when its end was reached."""
    progress = choose_progress()
    try:
        with serving(metrics) as page:
            return asyncio.run(drive(directory, ledger, progress, page))
    finally:
        progress.close()


def status_command(options: argparse.Namespace) -> int:
    """One line a run; one that cannot be read hides no other."""
    if options.run:
        print(state_of(open_run(options.runs / options.run, options.ledger)))
        return 0
    unreadable = 0
    for directory in sorted(path for path in options.runs.glob("*") if holds_run(path)):
        try:
            print(state_of(open_run(directory, options.ledger)))
        except (LedgerError, SQLAlchemyError, OSError) as error:
            unreadable += 1
            print(f"{directory.name}: cannot be read: {str(error).splitlines()[0]}")
    return 1 if unreadable else 0


def state_of(ledger: Ledger) -> str:
    """Where a run stands, in a line."""
    stages = ledger.all_stages()
    # A refresh stands behind the stage that it is within, though it ends first.
    unfinished = (each for each in stages if each["status"] != "finished")
    last = next(unfinished, stages[-1] if stages else None)
    rounds = len(ledger.all_rounds(last["stage"])) if last else 0
    where = f"stage {last['stage']} ({last['status']}), round {rounds}" if last else "nothing begun"
    return f"{ledger.run}: {ledger.info()['status']}, {where}, epoch {ledger.info()['epoch']}"


def report_command(options: argparse.Namespace) -> int:
    """The report of what the ledger holds, finished or not."""
    directory = options.runs / options.run
    ledger = open_run(directory, options.ledger)
    if options.json:
        print(json.dumps(summarise(ledger), indent=2, sort_keys=True))
    else:
        show_report(directory, ledger)
    return 0


def show_report(directory: Path, ledger: Ledger) -> None:
    """Writes the report's files and prints the table."""
    report = summarise(ledger)
    write_report(report, directory)
    print_report(report)
    print(f"report: {directory / 'report.html'}")


def verify_command(options: argparse.Namespace) -> int:
    """What a recount finds, one line each; 0 when that is nothing."""
    directory = options.runs / checked_name(options.run)
    verdict = verify(open_run(directory, options.ledger), directory)
    if options.json:
        findings = [finding.as_dict() for finding in verdict.findings]
        print(json.dumps({"findings": findings, "figures": verdict.figures}, indent=2))
        return 1 if findings else 0
    for finding in verdict.findings:
        print(finding)
    print(", ".join(f"{name} {value}" for name, value in verdict.figures.items() if name != "lengths"))
    for stage, lengths in verdict.figures["lengths"].items():
        print(f"{stage}: {lengths_line(lengths)}")
    print(f"{len(verdict.findings)} findings" if verdict.findings else "clean")
    return 1 if verdict.findings else 0


def lengths_line(lengths: dict[str, Any]) -> str:
    """How long what trained is, against what was sampled."""
    parts = [
        f"{lengths[side]['rollouts']} {side}"
        + (f" (mean {lengths[side]['mean_tokens']:.2f} tokens)" if lengths[side]["rollouts"] else "")
        for side in ("sampled", "trained")
    ]
    if lengths["p_value"] is not None:
        parts.append(f"Kolmogorov-Smirnov {lengths['distance']:.4f}, p = {lengths['p_value']:.3g}")
    return ", ".join(parts)


def export_command(options: argparse.Namespace) -> int:
    """Copies a model out."""
    ledger = open_run(options.runs / options.run, options.ledger)
    model = options.model or ledger.newest_model()
    row = ledger.latest_version(model)
    if row is None:
        raise LedgerError(f"run {ledger.run} has published no model {model!r}")
    version = f"{model}@{row['number']}"
    export_model(Path(row["uri"]), options.directory, model_card(ledger, version))
    print(f"{version} is in {options.directory}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
