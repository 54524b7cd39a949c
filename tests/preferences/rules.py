"""A rule that scores a response by its words, and cannot score those with an odd number of them."""


def even_words(prompt: str, response: str) -> float:
    """How many words; ValueError for an odd number."""
    words = len(response.split())
    if words % 2:
        raise ValueError("an odd number of words")
    return float(words)
