"""python -m worlds.fromtext prepare --data FILE --output DIR

DIR/train.jsonl      the rows of FILE that may train
DIR/heldout.jsonl    the others: of dialogues that begin otherwise
DIR/model/           a tokenizer trained on train.jsonl, and random weights
"""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

SIZES = ("vocabulary", "layers", "width", "heads", "context")  # fields of model.Shape


def main() -> int:
    """Runs the command; 2 where it cannot."""
    options = parser().parse_args()
    try:
        prepare(options)
    except (ValueError, OSError) as fault:
        print(f"worlds.fromtext: {fault}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m worlds.fromtext", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    top.add_argument("command", choices=["prepare"])
    top.add_argument("--data", type=Path, required=True, help="JSONL of any shape, or .jsonl.gz")
    top.add_argument("--output", type=Path, required=True, help="directory to write")
    top.add_argument("--held-out-share", type=float, default=0.2, help="share of the rows (default 0.2)")
    top.add_argument("--seed", type=int, default=0)
    top.add_argument("--family", default="llama", help="gpt2, llama or qwen2 (default llama)")
    top.add_argument("--no-chat-template", action="store_true", help="as base models have none")
    for name in SIZES:
        top.add_argument(f"--{name}", type=int, help="size of the model")
    return top


def prepare(options: argparse.Namespace) -> None:
    """Splits the rows and makes the model."""
    from worlds.fromtext.model import Shape, write_model  # torch loads in seconds; --help needs none of it
    from worlds.fromtext.split import read_lines, split_lines, texts_of, write_lines

    if not 0 <= options.held_out_share < 1:
        raise ValueError(f"--held-out-share: must be at least 0 and below 1, is {options.held_out_share}")
    given = {
        field.name: getattr(options, field.name)
        for field in fields(Shape)
        if getattr(options, field.name) is not None
    }
    training, held_out = split_lines(read_lines(options.data), options.held_out_share, options.seed)
    write_lines(options.output / "train.jsonl", training)
    write_lines(options.output / "heldout.jsonl", held_out)
    texts = [text for line in training for text in texts_of(line)]
    write_model(options.output / "model", texts, Shape(**given), options.seed, not options.no_chat_template)


if __name__ == "__main__":
    sys.exit(main())
