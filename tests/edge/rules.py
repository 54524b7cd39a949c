"""A rule to be scored by."""


def length(prompt: str, response: str) -> float:
    """Characters of the response."""
    return float(len(response))
