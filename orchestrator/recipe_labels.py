"""Who says which of two responses is better: the kinds of label that stages may ask for."""

from typing import Literal

from orchestrator.recipe_settings import Positive, Scorer, Settings


class SimulatedLabel(Settings):
    """Draws preferences with Bradley-Terry noise: P(i over j) = sigmoid(scale x (score_i - score_j))."""

    kind: Literal["simulated"]
    scorer: Scorer
    """Whose scores decide."""
    scale: Positive = 2.0
    """Higher is less noise."""
