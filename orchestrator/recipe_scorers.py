"""Scorers made of scorers, and reward models trained as the members of an ensemble.

combined:
  reward: {combine: mean_minus_variance, parts: [reward-1, reward-2], variance_weight: 0.1}
  both: {combine: weights, parts: [reward, brevity], weights: [1.0, 0.2]}
  all-hold: {combine: log_sigmoid, parts: [reward, brevity], references: [0.0, 0.0]}
  if-safe: {combine: gate, parts: [reward, safe], threshold: 0.5, otherwise: -2.0}
"""

from typing import Any

from pydantic import model_validator

from orchestrator.recipe_settings import CombinedSettings, Count, Settings


def combination_text(combined: CombinedSettings) -> str:
    """As the reward service takes it: mean_minus_variance(0.1):reward-1,reward-2."""
    how, parts = combined.combine, combined.parts
    if how == "gate":
        return f"gate({parts[1]}>={combined.threshold!r},{combined.otherwise!r}):{parts[0]}"
    if how in ("weights", "log_sigmoid"):
        mark, numbers = ("*", combined.weights) if how == "weights" else ("@", combined.references)
        each = zip(parts, numbers or [], strict=True)
        return f"{how}:{','.join(f'{part}{mark}{number!r}' for part, number in each)}"
    weight = f"({combined.variance_weight!r})" if combined.variance_weight is not None else ""
    return f"{how}{weight}:{','.join(parts)}"


class MemberSettings(Settings):
    """Which member of an ensemble a reward stage trains."""

    number: Count
    """Its place, from 1."""
    of: Count
    """How many there are."""
    leave_out: bool = True
    """Leaves out its own share of the training prompts, every of-th one: members differ in their data too."""

    @model_validator(mode="after")
    def _within(self) -> "MemberSettings":
        if self.number > self.of:
            raise ValueError(f"number must be at most {self.of}, is {self.number}")
        return self

    def rows(self, rows: list[Any]) -> list[Any]:
        """The rows that this member trains on."""
        if not self.leave_out or self.of == 1:
            return rows
        return [row for index, row in enumerate(rows) if index % self.of != self.number - 1]


def with_members(stages: dict[Any, Any]) -> tuple[dict[Any, Any], dict[str, list[str]]]:
    """Stages in which each reward stage with `members: 4` is four, and what became of each such name.

    {"rm": {"kind": "reward", "output": "reward", "members": 4}} becomes rm-1 to rm-4, which make reward-1 to
    reward-4; each is a stage of its own in the ledger, with seeds of its own. What is no number of members is
    left as it stands, for the recipe's checks to find.
    """
    expanded: dict[Any, Any] = {}
    became: dict[str, list[str]] = {}
    for name, stage in stages.items():
        members = stage.get("members") if isinstance(stage, dict) else None
        output = stage.get("output") if isinstance(stage, dict) else None
        if type(members) is not int or not 2 <= members <= 64 or not isinstance(output, str):
            expanded[name] = stage
            continue
        rest = {key: value for key, value in stage.items() if key != "members"}
        leave_out = rest.pop("leave_out", True)
        became[name] = [f"{name}-{number}" for number in range(1, members + 1)]
        for number, member_name in enumerate(became[name], start=1):
            member = {"number": number, "of": members, "leave_out": leave_out}
            expanded[member_name] = {**rest, "output": f"{output}-{number}", "member": member}
    return expanded, became
