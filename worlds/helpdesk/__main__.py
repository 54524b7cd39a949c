"""python -m worlds.helpdesk prepare --output DIR --seed N"""

import argparse
import os
import sys
import tempfile
from dataclasses import fields
from pathlib import Path

from worlds.helpdesk.prepare import Sizes, further_words, write_data

SHAPE_NAMES = ("layers", "width", "heads", "intermediate", "context", "init_std")  # fields of model.Shape


def main() -> int:
    arguments = parser().parse_args()
    try:
        arguments.run(arguments)
    except (ValueError, OSError) as fault:
        print(f"worlds.helpdesk {arguments.command}: {fault}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m worlds.helpdesk", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)

    prepare = commands.add_parser("prepare", help="write the model and the data of one seed")
    prepare.add_argument("--output", type=Path, required=True, help="directory to write")
    prepare.add_argument("--seed", type=int, default=0)
    prepare.set_defaults(run=prepare_whole)
    whole = "the directory appears when all is written; one that is there already stays as it is"
    prepare.add_argument("--whole", action="store_true", help=whole)
    for field in fields(Sizes):
        rows = f"rows, default {field.default}"
        prepare.add_argument(f"--{field.name}", type=int, default=field.default, help=rows)
    for name in SHAPE_NAMES[:-1]:
        prepare.add_argument(f"--{name}", type=int, help="size of the model")
    prepare.add_argument("--init-std", type=float, help="standard deviation of the random weights")
    return top


def prepare_whole(arguments: argparse.Namespace) -> None:
    """With --whole: for readers who must not see a half, and writers who come twice, as pods do."""
    output = arguments.output
    if not arguments.whole:
        run_prepare(arguments)
    elif output.exists():
        print(f"{output} is there already, and stays", file=sys.stderr)
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as beside:
            arguments.output = Path(beside) / output.name
            run_prepare(arguments)
            os.sync()
            arguments.output.rename(output)


def run_prepare(arguments: argparse.Namespace) -> None:
    from worlds.helpdesk.model import Shape, write_model  # torch loads in seconds; --help needs none of it

    sizes = Sizes(**{field.name: getattr(arguments, field.name) for field in fields(Sizes)})
    given = {name: getattr(arguments, name) for name in SHAPE_NAMES if getattr(arguments, name) is not None}
    write_data(arguments.output, sizes, arguments.seed)
    write_model(arguments.output / "model", Shape(**given), arguments.seed, further_words(sizes))


if __name__ == "__main__":
    sys.exit(main())
