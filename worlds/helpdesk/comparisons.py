"""Preferences drawn from gold: the better reply wins with a chance that grows with the gap.

P(i over j) = sigmoid(scale x (gold_i - gold_j)), Bradley and Terry 1952. A row:

    {"prompt_id": "p7", "messages": [...], "responses": ["a", "b", "c"],
     "preference": [[0, 1, 1.0], [2, 0, 1.0], [2, 1, 1.0]], "source": "gold"}

where each triple is winner, loser and weight.
"""

import math
from itertools import combinations
from random import Random

from worlds.helpdesk.gold import score


def win_probability(gap: float, scale: float) -> float:
    """sigmoid(scale x gap), safe at any gap."""
    if scale * gap < -700:
        return 0.0
    return 1.0 / (1.0 + math.exp(-scale * gap))


def draw_preference(golds: list[float], scale: float, random: Random) -> list[list[float]]:
    """Every pair of replies once, as [winner, loser, 1.0]."""
    triples = []
    for i, j in combinations(range(len(golds)), 2):
        first_wins = random.random() < win_probability(golds[i] - golds[j], scale)
        triples.append([i, j, 1.0] if first_wins else [j, i, 1.0])
    return triples


def compare(row: dict, scale: float, seed: int) -> dict:
    """The row with its preference. The draw depends on the seed and the prompt's id alone, not on
    which rows came before. Pairs of equal texts are left out: they hold no preference."""
    responses = row["responses"]
    golds = [score(row["messages"], response) for response in responses]
    triples = draw_preference(golds, scale, Random(f"compare {seed} {row['prompt_id']}"))
    preference = [triple for triple in triples if responses[triple[0]] != responses[triple[1]]]
    kept = {key: row[key] for key in ("prompt_id", "messages", "responses")}
    return kept | {"preference": preference, "source": "gold"}
