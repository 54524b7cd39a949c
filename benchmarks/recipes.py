"""The repository's recipes, and their prepare commands with some words replaced."""

from pathlib import Path
from typing import Any

import yaml

RECIPES = Path(__file__).resolve().parent.parent / "recipes"


def with_words(recipe: Path, **words: Any) -> list[str]:
    """The recipe's prepare command with --name=value in the place of each --name=...; ValueError for others.

    with_words(RECIPES / "hh-rlhf-reward.yaml", data="a.jsonl")      [..., "--data=a.jsonl", ...]
    """
    command: list[str] = yaml.safe_load(recipe.read_text())["prepare"]["command"]
    for name, value in words.items():
        flag = f"--{name.replace('_', '-')}="
        places = [index for index, word in enumerate(command) if word.startswith(flag)]
        if not places:
            raise ValueError(f"{recipe.name}: its prepare command has no {flag}")
        command[places[0]] = f"{flag}{value}"
    return command
