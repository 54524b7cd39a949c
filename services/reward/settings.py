"""What the reward service is told: the scorers it hosts, and where their models come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from services.reward.combinations import Combination, read_combination
from services.reward.rules import resolve
from services.settings import ServerSettings, above, setting


def named(text: str) -> tuple[str, str]:
    """("gold", "rules:gold") from "gold=rules:gold". Raises ValueError where either side is missing."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ValueError(f"must be NAME=VALUE, not {text!r}")
    return name, value


def named_rule(text: str) -> tuple[str, str]:
    """As `named`; the function must exist."""
    name, function = named(text)
    resolve(function)
    return name, function


def named_directory(text: str) -> tuple[str, Path]:
    """As `named`; the value is a path, which may come into being later."""
    name, path = named(text)
    return name, Path(path)


def named_combination(text: str) -> tuple[str, Combination]:
    """As `named`; the value says how which scorers are combined."""
    name, combination = named(text)
    return name, read_combination(combination)


def learned_scorer(text: str) -> tuple[str, Path | None]:
    """("rm", None) from "rm" and ("rm", Path("models/rm")) from "rm=models/rm", which must exist."""
    if "=" not in text:
        return text, None
    name, path = named_directory(text)
    if not path.is_dir():
        raise ValueError(f"must be a directory, and there is none at {str(path)!r}")
    return name, path


@dataclass(frozen=True, kw_only=True)
class RewardSettings(ServerSettings):
    """Scores responses with learned models and rules."""

    learned: tuple[tuple[str, Path | None], ...] = setting(
        (),
        "A scorer that is a model: NAME waits for LoadWeights, NAME=DIR serves a directory. Repeatable.",
        parse=learned_scorer,
        repeated=True,
    )
    rules: tuple[tuple[str, str], ...] = setting(
        (),
        "A scorer that is a function: NAME=module:function. Repeatable.",
        flag="--rule",
        parse=named_rule,
        repeated=True,
    )
    combined: tuple[tuple[str, Combination], ...] = setting(
        (),
        "A scorer made of scorers given before it: NAME=mean:A,B, min:A,B, mean_minus_variance(0.5):A,B, "
        "weights:A*1,B*0.2, log_sigmoid:A@0,B@1 or gate(B>=0,-2):A. Repeatable.",
        parse=named_combination,
        repeated=True,
    )
    follow: tuple[tuple[str, Path], ...] = setting(
        (),
        "NAME=MODELS_DIR/MODEL: the learned scorer NAME serves what that model's pointer names. Repeatable.",
        parse=named_directory,
        repeated=True,
    )
    device: str = setting("cpu", "Where models run, as torch names it: cpu, cuda, cuda:1.")
    batch_tokens: int = setting(
        16384, "Tokens of one forward pass at most, padding included.", parse=above(0)
    )
    max_items: int = setting(4096, "Items that one Score call may hold.", parse=above(0))

    def faults(self) -> list[str]:
        """No scorer, two of one name, parts that are not hosted, a pointer for what is not learned."""
        names = [name for name, _ in (*self.learned, *self.rules)]
        found = [] if names else ["--learned, --rule: give at least one scorer"]
        for name, combination in self.combined:
            missing = [part for part in combination.parts if part not in names]
            found += [f"--combined {name}: no scorer {part!r} before it" for part in missing]
            names.append(name)
        found += [f"--learned, --rule, --combined: {name!r} is given twice" for name in _repeated(names)]
        followed = [name for name, _ in self.follow]
        found += [f"--follow: {name!r} is given twice" for name in _repeated(followed)]
        learned_names = {name for name, _ in self.learned}
        found += [f"--follow: no --learned {name}" for name in followed if name not in learned_names]
        both = [name for name, path in self.learned if path is not None and name in followed]
        found += [f"--learned, --follow: give {name!r} one source of models" for name in both]
        return [*super().faults(), *found]


def _repeated(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})
