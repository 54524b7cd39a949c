"""What answers are like, whatever they are worth: how long, how often cut off, how varied, how repetitive."""

from collections.abc import Sequence
from typing import Any

from orchestrator.evaluation import diversity
from orchestrator.statistics import mean_interval, share_interval
from trueline.v1 import types_pb2

REPEATED_RUN = 4  # words: shorter runs repeat in any honest text
PERCENTILES = (10, 50, 90)


def lengths(rollouts: Sequence[types_pb2.Rollout]) -> dict[str, Any]:
    """Tokens of a response, and the share that the length limit cut off."""
    tokens = sorted(len(each.response_ids) for each in rollouts)
    cut_off = sum(each.finish_reason == types_pb2.FINISH_REASON_LENGTH for each in rollouts)
    return {
        "tokens": {
            **mean_interval(tokens).as_dict(),
            **{f"p{p}": tokens[round(p / 100 * (len(tokens) - 1))] for p in PERCENTILES},
            "max": tokens[-1],
        },
        "truncated": share_interval(cut_off, len(tokens)).as_dict("rate"),
        "empty": sum(not each.response_text.strip() for each in rollouts),
    }


def variety(texts: Sequence[str]) -> dict[str, Any]:
    """Diversity over all answers together, one a prompt, and repetition within each."""
    words = [text.split() for text in texts]
    repeated = [diversity.repeated(each, REPEATED_RUN) for each in words]
    entropies = [diversity.unigram_entropy(each) for each in words]
    return {
        **{f"distinct_{n}": diversity.distinct(words, n) for n in (1, 2, 3)},
        "self_bleu": diversity.self_bleu(words),
        "repeated": mean_interval([each for each in repeated if each is not None]).as_dict(),
        "entropy": mean_interval([each for each in entropies if each is not None]).as_dict(),
    }


def variety_of_a_prompt(groups: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Diversity of the answers to one prompt, averaged over prompts: what a collapsed policy loses first."""
    words = [[text.split() for text in group] for group in groups]
    distinct = [diversity.distinct(each, 2) for each in words]
    alike = [diversity.self_bleu(each) for each in words]
    return {
        "samples": len(groups[0]) if groups else 0,
        "different_texts": mean_interval([len(set(group)) / len(group) for group in groups]).as_dict(),
        "distinct_2": mean_interval([each for each in distinct if each is not None]).as_dict(),
        "self_bleu": mean_interval([each for each in alike if each is not None]).as_dict(),
    }
