"""python -m services.trainer plan MODEL_DIR --ranks 8: what a stage needs in memory, before it is begun."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from services.trainer.memory_plan import GIB, MODELS, Plan, footprint, memory_of, report

UNITS = {"MiB": 2**20, "GiB": GIB, "GB": 10**9, "TiB": 2**40}


def print_plan(arguments: Sequence[str]) -> int:
    """Prints the plan; 0 where the stage fits, 1 where it does not, 2 where it cannot be told."""
    given = _parser().parse_args(arguments)
    on_cpu = given.device_memory is None and not torch.cuda.is_available()
    device = torch.device("cpu" if on_cpu else "cuda")
    try:
        model = footprint(given.model_dir, autocast=not on_cpu)
        # Ranks of a CPU are processes of one machine, and share its memory.
        memory = given.device_memory or memory_of(device) // (given.ranks if on_cpu else 1)
    except (ValueError, OSError, AttributeError, NotImplementedError, RuntimeError) as error:
        print(f"{given.model_dir}: {' '.join(str(error).split())[:300]}", file=sys.stderr)
        return 2
    plan = Plan(
        model,
        given.stage,
        given.ranks,
        given.micro_batch_size,
        given.max_tokens or model.context_length,
        given.activation_checkpointing,
        memory,
        on_cpu,
    )
    print(report(plan))
    return 0 if plan.fits else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m services.trainer plan", description=__doc__, allow_abbrev=False
    )
    parser.add_argument(
        "model_dir", type=_model_dir, metavar="MODEL_DIR", help="a directory with a config.json"
    )
    parser.add_argument("--stage", choices=sorted(MODELS), default="ppo", help="(default: ppo)")
    parser.add_argument("--ranks", type=_count, default=1, help="processes, one to a device (default: 1)")
    parser.add_argument("--micro-batch-size", type=_count, default=4, help="rows of one pass (default: 4)")
    parser.add_argument("--max-tokens", type=_count, help="of the longest row (default: the model's context)")
    parser.add_argument(
        "--device-memory", type=_size, help="such as 80GiB (default: this machine's GPU, or its main memory)"
    )
    parser.add_argument("--activation-checkpointing", action="store_true", help="as the trainer's flag")
    return parser


def _model_dir(text: str) -> Path:
    if not (Path(text) / "config.json").is_file():
        raise argparse.ArgumentTypeError(f"{text}: holds no config.json")
    return Path(text)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {text!r}")
    return int(text)


def _size(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)", text)
    if not found or found[2] not in UNITS or not float(found[1]) > 0:
        raise argparse.ArgumentTypeError(f"must be a number with one of {', '.join(UNITS)}, not {text!r}")
    return int(float(found[1]) * UNITS[found[2]])
