"""python -m orchestrator export-comparisons, check-comparisons: for other programs, and for doubters."""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from orchestrator.comparison_files import SHAPES, NoShape, by_content, exported, oddities
from orchestrator.data import first_faults, read_comparisons
from orchestrator.drive import checked_name, open_run
from orchestrator.ledger import LedgerError
from orchestrator.stages.comparisons import by_prompt
from orchestrator.whole_files import replaced

SHOWN = 20


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds these commands to the command line."""
    export = commands.add_parser("export-comparisons", help="write a run's comparisons as JSONL")
    export.add_argument("run", help="the run's name")
    export.add_argument("file", type=Path, help="where to")
    export.add_argument("--collection", help="which; the only one without it")
    export.add_argument("--shape", choices=sorted(SHAPES), default="plain", help="(default: plain)")
    export.set_defaults(command=export_command)
    check = commands.add_parser(
        "check-comparisons", help="find unusable rows, duplicates, contradictions and cycles in comparisons"
    )
    check.add_argument("run", help="a run's name, or a JSONL file of comparisons in any known shape")
    check.add_argument("--collection", help="which of the run's; the only one without it")
    check.set_defaults(command=check_command)


def export_command(options: argparse.Namespace) -> int:
    """Writes the file, whole or not at all."""
    rows = collection(options)
    try:
        lines = [json.dumps(row, ensure_ascii=False) for row in exported(rows, options.shape)]
    except NoShape as error:
        raise LedgerError(f"cannot be written as {options.shape}: {error}") from None
    with replaced(options.file) as file:
        file.write("".join(line + "\n" for line in lines).encode())
    print(f"{len(lines)} comparisons of {len(rows)} prompts are in {options.file}")
    return 0


def check_command(options: argparse.Namespace) -> int:
    """Prints what cannot be used and what is odd, the first of each in full; 1 where anything is.

    Comparisons of one prompt are looked at together, whatever it is called.
    """
    file, left_out = Path(options.run), list[str]()
    if file.is_file():
        read = read_comparisons(file, shape="auto", bad_rows=2**31 - 1)
        rows, left_out = by_prompt(read, seed=0), list(read.left_out)
    else:
        rows = collection(options)
    rows = by_content(rows)
    for fault in first_faults(left_out):
        print(fault)
    found = list(oddities(rows))
    for each in found[:SHOWN]:
        print(each)
    if len(found) > SHOWN:
        print(f"and {len(found) - SHOWN} more")
    counts = Counter(each.kind for each in found)
    if left_out:
        counts["unusable rows"] = len({fault.partition(":")[0] for fault in left_out})
    told = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items())) or "nothing odd"
    print(f"{sum(len(row['preferences']) for row in rows)} comparisons of {len(rows)} prompts: {told}")
    return 1 if counts else 0


def collection(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The comparisons that were asked for. LedgerError says which there are."""
    ledger = open_run(options.runs / checked_name(options.run), options.ledger)
    names = ledger.collections()
    name = options.collection or (names[0] if len(names) == 1 else None)
    if name not in names:
        if not names:
            raise LedgerError(
                f"run {ledger.run} keeps no collection of comparisons: "
                "a dpo stage's pairs are its rounds' own"
            )
        known = ", ".join(names)
        raise LedgerError(f"name one of run {ledger.run}'s collections with --collection: {known}")
    return ledger.all_comparisons(name)
