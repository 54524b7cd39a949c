"""How varied answers are, and how much they repeat themselves. Words are what spaces part.

distinct([["a", "b", "a", "b", "c"]], 2)     0.75: four pairs of words, of three kinds
repeated(["a", "b", "a", "b", "c"], 2)       0.25
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

Words = Sequence[str]
BLEU_ORDER = 4


def ngrams(words: Words, n: int) -> list[tuple[str, ...]]:
    """Every run of n words, in order."""
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]


def distinct(texts: Sequence[Words], n: int) -> float | None:
    """distinct-n (Li et al. 2016): different runs of n words as a share of all, over all texts together.

    It falls with the amount of text, so compare equal numbers of answers of like length. None without a run.
    """
    found = [gram for words in texts for gram in ngrams(words, n)]
    return len(set(found)) / len(found) if found else None


def repeated(words: Words, n: int) -> float | None:
    """The share of a text's runs of n words that it holds already: 1 - distinct. None for a shorter text."""
    own = distinct([words], n)
    return None if own is None else 1 - own


def unigram_entropy(words: Words) -> float | None:
    """Entropy of the words of a text, in nats; None without words."""
    counts = Counter(words)
    total = len(words)
    return -math.fsum(c / total * math.log(c / total) for c in counts.values()) if total else None


def self_bleu(texts: Sequence[Words]) -> float | None:
    """Self-BLEU (Zhu et al. 2018): the mean BLEU-4 of each text against all others.

    1 is one text again and again. None with fewer than two texts that hold words.
    """
    kept = [words for words in texts if words]
    if len(kept) < 2:
        return None
    orders = [_Most([Counter(ngrams(words, n)) for words in kept]) for n in range(1, BLEU_ORDER + 1)]
    lengths = sorted(len(words) for words in kept)
    scores = []
    for index, words in enumerate(kept):
        own = bisect_left(lengths, len(words))
        near = [
            *lengths[max(0, own - 1) : own],
            *lengths[own + 1 : own + 2],
        ]  # one of its own length is left out
        nearest = min(near, key=lambda size: (abs(size - len(words)), size))
        matched = [orders[n].matched(index) for n in range(min(BLEU_ORDER, len(words)))]
        scores.append(bleu(matched, len(words), nearest))
    return math.fsum(scores) / len(scores)


def bleu(matched: Sequence[tuple[int, int]], length: int, nearest: int) -> float:
    """BLEU (Papineni et al. 2002) of a text with these (matches, runs) by order, with the brevity penalty.

    From the second order on one is added to both (Lin and Och 2004): that no long run matches is not yet 0.
    """
    logs = []
    for order, (matches, runs) in enumerate(matched, start=1):
        smooth = 0 if order == 1 else 1
        if matches + smooth == 0:
            return 0.0
        logs.append(math.log((matches + smooth) / (runs + smooth)))
    return math.exp(min(0.0, 1 - nearest / length) + math.fsum(logs) / len(logs))


class _Most:
    """How often each run of words occurs at most in one text other than a given one; in linear time."""

    def __init__(self, counts: Sequence[Counter[tuple[str, ...]]]) -> None:
        self.counts = counts
        self.most: dict[tuple[str, ...], tuple[int, int, int]] = {}  # highest count, whose, second highest
        for index, own in enumerate(counts):
            for gram, count in own.items():
                first, whose, second = self.most.get(gram, (0, -1, 0))
                if count > first:
                    self.most[gram] = (count, index, first)
                elif count > second:
                    self.most[gram] = (first, whose, count)

    def matched(self, index: int) -> tuple[int, int]:
        """(runs of this text that others have as often, its runs)."""
        own, matches = self.counts[index], 0
        for gram, count in own.items():
            first, whose, second = self.most[gram]
            matches += min(count, second if whose == index else first)
        return matches, sum(own.values())
