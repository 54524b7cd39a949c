"""A rule: any function f(prompt, response) -> float, named as "module:function".

rule = RuleScorer("gold", "worlds.helpdesk.gold:score")
rule.score([Exchange("my lamp is broken .", "sorry .")])    # [Scored(raw=-1.2, normalised=-1.2)]
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from numbers import Real

from services.reward.scorers import Description, Exchange, NotScored, Outcome, finite_score

MESSAGE_CHARACTERS = 300


def resolve(function: str) -> Callable[..., object]:
    """The function that "module:function" names. Raises ValueError with a sentence when there is none."""
    module_name, colon, attribute = function.partition(":")
    if not (module_name and colon and attribute):
        raise ValueError(f"must be module:function, not {function!r}")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ValueError(f"module {module_name!r} cannot be imported ({error})") from error
    found = getattr(module, attribute, None)
    if not callable(found):
        raise ValueError(f"module {module_name!r} has no function {attribute!r}")
    return found


class RuleScorer:
    """Scores one exchange at a time; what goes wrong with one is that one's error."""

    def __init__(self, name: str, function: str) -> None:
        self.description = Description(name, function=function, fixed=True)
        self._function = resolve(function)

    def score(self, exchanges: Sequence[Exchange]) -> list[Outcome]:
        """One outcome per exchange, in order. Raises nothing of the rule's."""
        return [exchange.fault() or self._score(exchange) for exchange in exchanges]

    def _score(self, exchange: Exchange) -> Outcome:
        try:
            raw = self._function(exchange.prompt, exchange.response)
            if isinstance(raw, bool) or not isinstance(raw, Real):
                return NotScored("not_a_number", f"the rule returned {raw!r}"[:MESSAGE_CHARACTERS])
            number = float(raw)  # no float holds every whole number, and what is returned may be of any class
        except (Exception, SystemExit) as error:
            return NotScored("rule_failed", f"{type(error).__name__}: {error}"[:MESSAGE_CHARACTERS])
        return finite_score(number)
