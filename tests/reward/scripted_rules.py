"""Rules for tests: what they do depends on the response."""

import math
import sys
from typing import Any


def count_words(prompt: str | list[dict[str, str]], response: str) -> float:
    """Words of the response, and a tenth for each turn of the prompt."""
    return len(response.split()) + (0 if isinstance(prompt, str) else len(prompt) / 10)


def misbehave(prompt: str, response: str) -> Any:
    """One way to go wrong for each word."""
    if response == "raises":
        raise KeyError("no such order")
    if response == "half":
        raise ValueError("no file named \udcff")
    if response == "exits":
        sys.exit(3)
    odd = {
        "huge": 10**400,
        "nan": math.nan,
        "infinite": -math.inf,
        "nothing": None,
        "text": "1.0",
        "true": True,
    }
    return odd.get(response, 0)
