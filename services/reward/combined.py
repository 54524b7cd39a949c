"""Several scorers served as one: an ensemble of reward models, or objectives that are weighed or gated.

What is combined are the parts' normalised scores, since raw scores of different models have no common scale.
A part that fails an item fails it for all: a mean over those that are left would be another reward.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from services.reward import combining
from services.reward.combinations import Combination
from services.reward.scorers import Description, Exchange, NotScored, Outcome, Scored, Scorer, finite_score
from services.weights import ModelVersion


class CombinedScorer:
    """One answer out of those of its parts, which are scorers as they were when it was made."""

    def __init__(self, name: str, combination: Combination, parts: Sequence[Scorer]) -> None:
        self._combination, self._parts = combination, list(parts)
        self.description = combined_description(name, combination, [part.description for part in parts])

    def score(self, exchanges: Sequence[Exchange]) -> list[Outcome]:
        """One outcome per exchange, in order: a score of all parts, or the first part's error."""
        answers = [part.score(exchanges) for part in self._parts]
        return [self._outcome(outcomes) for outcomes in zip(*answers, strict=True)]

    def _outcome(self, outcomes: Sequence[Outcome]) -> Outcome:
        scored: list[Scored] = []
        for name, outcome in zip(self._combination.parts, outcomes, strict=True):
            if isinstance(outcome, NotScored):
                return NotScored("part_failed", f"{name}: {outcome.reason}: {outcome.message}")
            scored.append(outcome)
        scores_M = [each.normalised for each in scored]
        combined = finite_score(
            self._combination.combine(scores_M),
            truncated=any(each.truncated for each in scored),
            tokens=sum(each.tokens for each in scored),
        )
        if isinstance(combined, NotScored) or not self._combination.is_ensemble:
            return combined
        return replace(combined, disagreement=combining.disagreement(scores_M))


def combined_description(name: str, combination: Combination, parts: Sequence[Description]) -> Description:
    """What a combination is: it has a version once every learned part has one, and another when one changes.

    The number is the newest part's; the digest is over the combination and all parts.
    """
    changing = [part for part in parts if not part.fixed]
    known = [part.version for part in changing if part.version is not None]
    version = None
    if changing and len(known) == len(changing):
        named = [f"{part.name} {part.version.sha256 if part.version else part.function}" for part in parts]
        digest = hashlib.sha256("\n".join([combination.text, *named]).encode()).hexdigest()
        version = ModelVersion(name, max(each.number for each in known), digest)
    return Description(
        name,
        fixed=not changing,
        combination=combination.text,
        parts=combination.parts,
        version=version,
    )
