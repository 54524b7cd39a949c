"""Which faults, at which calls of which rounds: every kind often, every process dead at ten points.

A fault is due at the first call of its method once its round has begun, so the rounds spread them and the
methods aim them. The order is the seed's.
"""

import random
from collections.abc import Iterator
from itertools import cycle, islice

from tests.faults.plan import Fault

HOUR = 3600.0
SERVICES = ("policy", "reference", "reward", "trainer")

# (method, edge) by service. The first of each lie before the rounds, the others in them.
EARLY_DEATHS = {
    "policy": [("LoadWeights", "before"), ("Generate", "after")],
    "reference": [],
    "reward": [("Score", "during")],
    "trainer": [
        ("BeginStage", "after"),
        ("SftStep", "during"),
        ("RewardModelStep", "after"),
        ("FitNormalisation", "before"),
    ],
}
DEATHS = {
    "policy": [
        ("Generate", "before"), ("Generate", "during"), ("Generate", "after"), ("LoadWeights", "before"),
        ("LoadWeights", "during"), ("LoadWeights", "after"), ("GetPolicy", "before"), ("GetPolicy", "after"),
    ],
    "reference": [
        ("ComputeLogprobs", "before"), ("ComputeLogprobs", "during"), ("ComputeLogprobs", "after"),
        ("ComputeLogprobs", "before"), ("ComputeLogprobs", "during"), ("ComputeLogprobs", "after"),
        ("ComputeLogprobs", "before"), ("ComputeLogprobs", "after"), ("ComputeLogprobs", "during"),
        ("ComputeLogprobs", "after"),
    ],
    "reward": [
        ("Score", "before"), ("Score", "during"), ("Score", "after"), ("Score", "before"), ("Score", "after"),
        ("Score", "during"), ("Score", "before"), ("Score", "after"), ("Score", "during"),
    ],
    "trainer": [
        ("PpoStep", "before"), ("PpoStep", "during"), ("PpoStep", "after"), ("Publish", "during"),
        ("Publish", "after"), ("Checkpoint", "after"),
    ],
}  # fmt: skip
# The orchestrator's own: (service, method, edge) of the call at which it dies.
ORCHESTRATOR_EARLY = [("trainer", "SftStep", "after"), ("policy", "Generate", "after")]
ORCHESTRATOR = [
    ("policy", "Generate", "before"), ("policy", "Generate", "during"),
    ("reference", "ComputeLogprobs", "after"), ("reward", "Score", "after"),
    ("trainer", "PpoStep", "during"), ("trainer", "PpoStep", "after"), ("trainer", "Publish", "after"),
    ("policy", "LoadWeights", "after"),
]  # fmt: skip

EVERY_ROUND = [
    ("policy", "Generate"), ("reference", "ComputeLogprobs"), ("reward", "Score"), ("trainer", "PpoStep"),
    ("trainer", "Publish"), ("policy", "LoadWeights"),
]  # fmt: skip
CONCURRENT = [("policy", "Generate"), ("reference", "ComputeLogprobs"), ("reward", "Score")]
CHANGING = [("trainer", "PpoStep"), ("trainer", "Publish"), ("policy", "LoadWeights")]

# How many of each kind but death, in a full run.
FULL = {
    "hang": 24, "half-open": 20, "slow": 75, "duplicate": 70, "reorder": 50, "unavailable": 91, "corrupt": 48,
    "full-disk": 28, "clock-jump": 44,
}  # fmt: skip
QUICK = {
    "hang": 2, "half-open": 2, "slow": 5, "duplicate": 6, "reorder": 4, "unavailable": 7, "corrupt": 5,
    "full-disk": 2, "clock-jump": 3,
}  # fmt: skip
QUICK_DEATHS = 5  # one of each process

Aimed = tuple[str, str, str, str, float]  # service, method, edge, detail, seconds


def full_schedule(rounds: int, seed: int) -> list[Fault]:
    """500 faults: ten deaths of each of five processes, the other kinds as FULL counts them."""
    early, late = deaths()
    return Schedule(rounds, seed).of(early, late, FULL)


def quick_schedule(rounds: int, seed: int) -> list[Fault]:
    """About 40 faults: one death of each process, and a few of each other kind."""
    late = [death(name, *DEATHS[name][2]) for name in SERVICES]
    return Schedule(rounds, seed).of([], [*late, orchestrator_death(*ORCHESTRATOR[5])], QUICK)


def deaths() -> tuple[list[Fault], list[Fault]]:
    """Fifty: those before the rounds, and those in them."""
    early = [death(name, *point) for name in SERVICES for point in EARLY_DEATHS[name]]
    late = [death(name, *point) for name in SERVICES for point in DEATHS[name]]
    early += [orchestrator_death(*point) for point in ORCHESTRATOR_EARLY]
    late += [orchestrator_death(*point) for point in ORCHESTRATOR]
    return early, late


def death(service: str, method: str, edge: str) -> Fault:
    """A service dies at a call of its own."""
    return Fault(0, "die", service, method, edge=edge)


def orchestrator_death(service: str, method: str, edge: str) -> Fault:
    """The orchestrator dies at a call that it makes."""
    return Fault(0, "die", service, method, edge=edge, side="caller")


class Schedule:
    """Numbers faults and spreads them over the rounds."""

    def __init__(self, rounds: int, seed: int) -> None:
        self.rounds, self.draw = rounds, random.Random(seed)

    def of(self, early: list[Fault], late: list[Fault], counts: dict[str, int]) -> list[Fault]:
        """Every fault with its number and round. Each kind is spread evenly, from a start of its own."""
        placed = [(0, fault) for fault in early]
        self.draw.shuffle(late)
        placed += self.spread(late)
        for position, (kind, count) in enumerate(counts.items()):
            aims = islice(AIMS[kind](), count)
            placed += self.spread([fault_of(kind, *aim) for aim in aims], position / len(counts))
        return [
            Fault(
                number,
                each.kind,
                each.service,
                each.method,
                round_,
                each.side,
                each.edge,
                each.detail,
                each.seconds,
            )  # fmt: skip
            for number, (round_, each) in enumerate(placed, start=1)
        ]

    def spread(self, faults: list[Fault], shift: float = 0.5) -> list[tuple[int, Fault]]:
        """Round by round, from the first to the last but three: what comes late has to fire yet.

        Kinds are shifted against each other by less than one step, so that not all begin in one round.
        """
        last = max(1, self.rounds - 3)
        even = [1 + int((index + shift) * last / len(faults)) for index in range(len(faults))]
        # A checkpoint is read when the trainer comes back, so a death has to follow.
        return [
            (min(due, last * 2 // 3) if each.method == "Restore" else due, each)
            for due, each in zip(even, faults, strict=True)
        ]


def fault_of(kind: str, service: str, method: str, edge: str, detail: str, seconds: float) -> Fault:
    """A fault of a kind, at the side that can do it."""
    at_caller = kind in ("duplicate", "half-open") or detail in ("wire", "caller")
    side = "caller" if at_caller else "service"
    return Fault(0, kind, service, method, edge=edge, detail=detail, seconds=seconds, side=side)


def hangs() -> Iterator[Aimed]:
    """Handlers that never return, before the work and behind it; every third a whole process stopped."""
    for index, (service, method) in enumerate(cycle(EVERY_ROUND)):
        edge = ("before", "after")[index // 6 % 2]
        yield service, method, edge, ("handler", "stop", "handler")[(index + index // 6) % 3], 0.0


def half_open() -> Iterator[Aimed]:
    """The connection of a call vanishes under it, without a word."""
    for service, method in cycle(EVERY_ROUND):
        yield service, method, "before", "", 0.0


def slow() -> Iterator[Aimed]:
    """Late, and well within the deadline."""
    for index, (service, method) in enumerate(cycle(EVERY_ROUND)):
        yield service, method, ("before", "after")[index % 2], "", 0.3


def duplicates() -> Iterator[Aimed]:
    """The same request twice at once, or once more behind a newer one."""
    for index, (service, method) in enumerate(cycle([*EVERY_ROUND, *CHANGING])):
        yield service, method, "before", ("together", "late")[index % 2], 0.0


def reorders() -> Iterator[Aimed]:
    """A request is held back until a later one has overtaken it."""
    for service, method in cycle(CONCURRENT):
        yield service, method, "before", "", 0.0


def unavailable() -> Iterator[Aimed]:
    """Before the work, or behind it: an answer that was lost."""
    for index, (service, method) in enumerate(cycle([*EVERY_ROUND, *CHANGING])):
        yield service, method, ("before", "after")[index // 9 % 2], "", 0.0


def corrupt() -> Iterator[Aimed]:
    """On disk what a service reads, and on the wire what it answers."""
    disk = [
        ("trainer", "PpoStep", "payload"),
        ("policy", "LoadWeights", "shard"),
        ("policy", "LoadWeights", "manifest"),
        ("trainer", "Restore", "checkpoint"),
    ]
    for index, (service, method) in enumerate(cycle(EVERY_ROUND)):
        yield service, method, "before", "wire", 0.0
        on, called, file = disk[index % len(disk)]
        yield on, called, "before", file, 0.0


def full_disk() -> Iterator[Aimed]:
    """Where the trainer publishes and checkpoints, and where the orchestrator keeps what it was answered."""
    places = [
        ("trainer", "Publish", "service"), ("policy", "Generate", "caller"), ("trainer", "PpoStep", "caller"),
        ("trainer", "Checkpoint", "service"), ("reward", "Score", "caller"), ("trainer", "Publish", "caller"),
    ]  # fmt: skip
    for service, method, detail in cycle(places):
        yield service, method, "before", detail, 0.7


def clock_jumps() -> Iterator[Aimed]:
    """Hours forward and back, of a service's clock and of the orchestrator's; they come to nothing in sum."""
    for index, (service, method) in enumerate(cycle(EVERY_ROUND)):
        detail = ("service", "caller")[index // 6 % 2]
        hours = (3 + index // 12) * (1 if index // 3 % 2 else -1)
        yield service, method, "before", detail, hours * HOUR


AIMS = {
    "hang": hangs,
    "half-open": half_open,
    "slow": slow,
    "duplicate": duplicates,
    "reorder": reorders,
    "unavailable": unavailable,
    "corrupt": corrupt,
    "full-disk": full_disk,
    "clock-jump": clock_jumps,
}
