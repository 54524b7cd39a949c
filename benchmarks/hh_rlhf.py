"""A reward model of HH-RLHF's human comparisons, by recipes/hh-rlhf-reward.yaml; prints one JSON line.

    python -m benchmarks.hh_rlhf harmless-base.jsonl.gz

The file is read where it lies; some of its text is offensive, and none of it is kept but in the run.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.recipes import RECIPES, with_words
from orchestrator.drive import drive, new_run
from orchestrator.ledger import Ledger
from orchestrator.progress import PlainProgress
from orchestrator.summary import summarise

RECIPE = RECIPES / "hh-rlhf-reward.yaml"


def main() -> int:
    """Runs the recipe; without --keep in a directory that goes with it."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    flags.add_argument("data", type=Path, help="JSONL with chosen and rejected transcripts, or .jsonl.gz")
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--threads", type=int, default=2, help="of the trainer")
    flags.add_argument("--keep", type=Path, help="a new directory for the run, its report included")
    options = flags.parse_args()
    if not options.data.is_file():
        flags.error(f"argument data: there is no file {options.data}")
    with tempfile.TemporaryDirectory(prefix="trueline-hh-") as scratch:
        directory = options.keep or Path(scratch) / "hh-rlhf-reward"
        command = with_words(RECIPE, data=str(options.data.absolute()))
        overrides = [f"prepare.command={json.dumps(command)}", f"services.trainer.threads={options.threads}"]
        ledger = new_run(RECIPE, directory, overrides, options.seed)
        if not asyncio.run(drive(directory, ledger, PlainProgress(sys.stderr))):
            return 130  # somebody stopped it
        print(json.dumps(figures(ledger)))
    return 0


def figures(ledger: Ledger) -> dict[str, Any]:
    """How good the reward model is on comparisons that it did not see, and what was left out."""
    report = summarise(ledger)
    stages = {row["stage"]: row["result"] for row in ledger.all_stages()}
    return {
        "status": report["status"],
        "heldout_accuracy": report["reward_model"]["heldout_accuracy"],
        "train_accuracy": report["reward_model"]["train_accuracy"],
        "comparisons": report["reward_model"]["comparisons"],
        "prompts": stages["comparisons"]["prompts"],
        "seconds": {row["name"]: round(row["seconds"], 1) for row in report["stages"]},
        "notes": report["notes"],
    }


if __name__ == "__main__":
    sys.exit(main())
