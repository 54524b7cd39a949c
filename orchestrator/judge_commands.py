"""python -m orchestrator label, audit-judge, replay-verdicts: people and judge, side by side."""

import argparse
import asyncio
import json
import random
import sys
from pathlib import Path
from typing import Any

from orchestrator.drive import checked_name, only_one, open_run, recorded_recipe
from orchestrator.judge_audit import CHECK, audit, disagreements, model_of
from orchestrator.judge_scoring import rated
from orchestrator.ledger import Ledger, LedgerError
from orchestrator.prompts import as_text
from orchestrator.replaying import Replay, is_answered, replay
from orchestrator.seeds import derive

ANSWERS = {"1": 1.0, "2": 0.0, "t": 0.5}
HELP = "1 or 2: which is better; t: as good as each other; s: skip; q: stop here (all answers are kept)"
Row = dict[str, Any]


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds these commands to the command line."""
    label = commands.add_parser("label", help="label pairs that wait for a person")
    label.add_argument("run", help="the run's name")
    label.add_argument("--annotator", default="person", help="who labels; kept beside each answer")
    label.add_argument(
        "--check",
        type=whole,
        default=0,
        metavar="N",
        help="also label N pairs that the judge has judged, to measure it; they never train",
    )
    label.set_defaults(command=label_command)
    of_judge = commands.add_parser("audit-judge", help="how far a run's judge can be trusted")
    of_judge.add_argument("run", help="the run's name")
    of_judge.add_argument("--json", action="store_true", help="print JSON and nothing else")
    of_judge.add_argument(
        "--disagreements",
        type=Path,
        metavar="FILE",
        help="writes pairs that person, gold or the scorer decide otherwise",
    )
    of_judge.add_argument(
        "--scorer", help="also asks this scorer of the run's reward service, such as its reward model"
    )
    of_judge.set_defaults(command=audit_command)
    again = commands.add_parser("replay-verdicts", help="ask the judge again what it was asked")
    again.add_argument("run", help="the run's name")
    again.add_argument("--count", type=whole, default=100, help="verdicts to ask again (default: 100)")
    again.set_defaults(command=replay_command)


def whole(text: str) -> int:
    """A number from 0. argparse says what is wrong with another."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number from 0, is {text}")
    return int(text)


def label_command(options: argparse.Namespace) -> int:
    """Asks a person about each waiting pair; every answer is durable at once."""
    directory = options.runs / checked_name(options.run)
    ledger = open_run(directory, options.ledger)
    with only_one(directory):
        ledger.take_lease()
        if options.check:
            add_checks(ledger, options.check)
        waiting = ledger.waiting_labels()
        print(f"{len(waiting)} pairs wait. {HELP}")
        done = label_all(ledger, waiting, options.annotator)
    print(
        f"{done} answered, {len(waiting) - done} wait. Go on with: python -m orchestrator resume {ledger.run}"
    )
    return 0


def add_checks(ledger: Ledger, count: int) -> None:
    """Puts pairs that the judge has judged before a person too; drawn by the run's seed."""
    labels = ledger.all_labels()
    known = {(row["stage"], row["round"], row["item"]) for row in labels}
    judged = [row for row in labels if row["source"] == "judge" and row["probability"] is not None]
    new = [row for row in judged if (row["stage"], row["round"], CHECK + row["item"]) not in known]
    for row in random.Random(derive(ledger.info()["seed"], "check")).sample(new, min(count, len(new))):
        asked = {name: row[name] for name in ("prompt", "first", "second")}
        ledger.add_labels(
            row["stage"], row["round"], [{**asked, "item": CHECK + row["item"], "source": "person"}]
        )


def label_all(ledger: Ledger, waiting: list[Row], annotator: str) -> int:
    """How many pairs the person answered before they stopped, or standard input ended."""
    for done, row in enumerate(waiting):
        # Blind: neither who wrote a response nor what the judge said is shown, and sides are shuffled.
        swapped = (
            random.Random(derive(ledger.info()["seed"], "side", row["stage"], row["item"])).random() < 0.5
        )
        answer = ask(row, swapped, f"{done + 1}/{len(waiting)}")
        if answer is None:
            return done
        ledger.answer_label(row["stage"], row["round"], row["item"], annotator, **answer)
    return len(waiting)


def ask(row: Row, swapped: bool, place: str) -> Row | None:
    """A person's answer to one pair; None where they stop."""
    first, second = (row["second"], row["first"]) if swapped else (row["first"], row["second"])
    print(f"\n[{place}]\n{as_text(row['prompt'])}\n\n  1  {first}\n\n  2  {second}\n")
    while True:
        try:
            said = input("1/2/t/s/q> ").strip().lower()
        except EOFError:
            return None
        if said == "q":
            return None
        if said == "s":
            return {"reason": "skipped", "message": "the person skipped it"}
        if said == "t":
            return {"reason": "tie", "message": "the person finds them as good as each other"}
        if said in ANSWERS:
            chance = ANSWERS[said]
            return {"probability": 1 - chance if swapped else chance}
        print(HELP)


def audit_command(options: argparse.Namespace) -> int:
    """Prints the audit; 1 where the run has no verdict."""
    ledger = open_run(options.runs / checked_name(options.run), options.ledger)
    labels = ledger.all_labels()
    if options.scorer and any(row["source"] == "judge" for row in labels):
        directory = options.runs / options.run
        recipe = recorded_recipe(directory, ledger)
        with only_one(directory):  # the services' logs are the run's
            labels = asyncio.run(rated(recipe, directory, ledger, labels, options.scorer))
    found = audit(labels)
    if not found:
        raise LedgerError(f"run {ledger.run} has no verdict of a judge")
    if options.disagreements is not None:
        rows = disagreements(labels)
        options.disagreements.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if options.json:
        print(json.dumps(found, indent=2, sort_keys=True))
        return 0
    print(f"judged by {', '.join(f'{name} ({count})' for name, count in found['models'].items())}")
    for line in audit_lines(found):
        print(line)
    for what, parts in (("principle", found["principles"]), ("judge", found["judges"])):
        for name, figures in parts.items():
            print(f"by {what} {name!r}:")
            for line in audit_lines(figures):
                print(f"  {line}")
    if options.disagreements is not None:
        print(f"{len(rows)} disagreements are in {options.disagreements}")
    return 0


def audit_lines(figures: Row) -> list[str]:
    """An audit's figures for a person."""
    abstained, flips, unread = (
        interval(figures[name], percent=True)
        for name in ("abstention_share", "position_flips", "parse_failures")
    )
    reasons = "".join(f", {reason} {count}" for reason, count in figures["abstentions"].items())
    bias = interval(figures["first_slot_bias"])
    lines = [
        f"{figures['verdicts']} pairs, abstained on {abstained}{reasons}",
        f"position flips {flips}, first-slot bias {bias}, parse failures {unread}",
    ]
    if figures["length_correlation"] is not None:
        lines.append(f"correlation with length {figures['length_correlation']:.3f}")
    for other in ("gold", "people", "scorer"):
        compared = figures[other]
        if compared["n"]:
            lines.append(
                f"against {other} ({compared['n']} pairs): agreement "
                f"{interval(compared['agreement_interval'], percent=True)}, "
                f"kappa {interval(compared['kappa'])}, "
                f"calibration error {compared['calibration_error']:.3f}"
            )
    return lines


def interval(figure: Row, percent: bool = False) -> str:
    """0.700 [0.629, 0.771], or as percentages; "unknown" where there is none."""
    if figure["mean"] is None:
        return "unknown"
    numbers = [figure["mean"], figure["low"], figure["high"]]
    if numbers[1] is None:
        return f"{numbers[0]:.1%}" if percent else f"{numbers[0]:.3f}"
    mean, low, high = (f"{each:.1%}" if percent else f"{each:.3f}" for each in numbers)
    return f"{mean} [{low}, {high}]"


def replay_command(options: argparse.Namespace) -> int:
    """Asks again; 0 where every verdict came out as it was."""
    directory = options.runs / checked_name(options.run)
    ledger = open_run(directory, options.ledger)
    kept = ledger.all_labels("judge")
    verdicts = [row for row in kept if is_answered(row)]
    left_out = len(kept) - len(verdicts)
    if not verdicts:
        why = f": the endpoint gave no answer for {left_out}" if left_out else ""
        raise LedgerError(f"run {ledger.run} has no verdict of a judge{why}")
    asked = random.Random(0).sample(verdicts, min(options.count, len(verdicts)))
    found: Replay = asyncio.run(replay(recorded_recipe(directory, ledger), directory, ledger, asked))
    print(
        f"{found.same} of {len(asked)} verdicts came out the same, {found.to_the_bit} of them to the last bit"
    )
    if left_out:
        print(f"{left_out} were left out: the endpoint gave no answer, or they were asked about anew")
    for row, now in found.others:
        print(f"{row['stage']} {row['round']} {row['item']} by {model_of(row)}: {now}", file=sys.stderr)
    return 0 if found.same == len(asked) else 1
