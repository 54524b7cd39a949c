"""A gold rule for tests: short answers are better, and one with w5 cannot be scored."""


def without_w5(prompt: str | list[dict[str, str]], response: str) -> float:
    """Minus the number of words; a ValueError, and so no score, where w5 is among them."""
    said = response.split()
    if "w5" in said:
        raise ValueError("w5 is beyond me")
    return -float(len(said))
