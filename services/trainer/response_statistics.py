"""How varied responses are, from their token ids alone. A policy that hacks its reward shows it here early.

Li et al. 2016 ("A diversity-promoting objective function"): distinct-n. Welleck et al. 2020 ("Neural text
degeneration with unlikelihood training"): repetition within a sequence.
"""

from __future__ import annotations

from collections.abc import Sequence

REPEATED = 3  # tokens of an n-gram whose return counts as repetition


def ngrams(ids: Sequence[int], n: int) -> list[tuple[int, ...]]:
    """ngrams([1, 2, 3], 2) -> [(1, 2), (2, 3)]."""
    return list(zip(*(ids[start:] for start in range(n)), strict=False))


def distinct(responses: Sequence[Sequence[int]], n: int) -> float | None:
    """Distinct n-grams over all n-grams; None of none: [[1, 1], [1, 2]] has 2 of 4 for n = 1."""
    found = [gram for ids in responses for gram in ngrams(ids, n)]
    return len(set(found)) / len(found) if found else None


def repetition(responses: Sequence[Sequence[int]]) -> float | None:
    """Mean share of a response's 3-grams that it has said before; None where all are shorter than one.

    [[7, 7, 7, 7]] has 1 of 2; [[1, 2, 3, 4]] has none.
    """
    shares = [1 - len(set(grams)) / len(grams) for ids in responses if (grams := ngrams(ids, REPEATED))]
    return sum(shares) / len(shares) if shares else None
