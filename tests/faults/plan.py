"""A fault plan: a directory in which each fault is a file that exactly one process may claim, once.

    plan/pending/0012-0047.policy.service.Generate     due from round 12 on, at a Generate that policy handles
    plan/fired/0012-0047.policy.service.Generate       claimed: renamed, then written anew with who and when
    plan/round                                         the latest round that the orchestrator has called for
    plan/calls/4711.jsonl                              every call of orchestrator 4711: limit and duration

A rename is atomic, so that a fault fires once whatever dies, retries or runs twice.
"""

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# What may go wrong. Those of `AT_CALLER` fire in the orchestrator's process, the others in the service's.
KINDS = (
    "die", "hang", "half-open", "slow", "duplicate", "reorder", "unavailable", "corrupt", "full-disk",
    "clock-jump",
)  # fmt: skip
SIDES = ("service", "caller")
EDGES = ("before", "during", "after")


@dataclass(frozen=True)
class Fault:
    """One fault: what, and at which call.

    Fault(47, "die", "policy", "Generate", round=12, edge="after")     policy dies before its answer is sent
    Fault(48, "die", "trainer", "PpoStep", side="caller")              the orchestrator dies before the call
    """

    number: int
    kind: str
    service: str
    """The service of the call."""
    method: str
    """The call's method, or "*" for any."""
    round: int = 0
    """Fires at the first such call once this round has begun; 0 is the first of the run."""
    side: str = "service"
    """Whose process: the service's, or the caller's, which is the orchestrator."""
    edge: str = "before"
    """Before the work, during it, or behind it, with the answer not sent yet."""
    detail: str = ""
    """Which variety of the kind, such as "stop" and "handler" of a hang."""
    seconds: float = 0.0
    """How long, for those that last; of a clock jump, by how much."""

    @property
    def name(self) -> str:
        """The file's name; names sort by the round in which they are due."""
        return f"{self.round:04d}-{self.number:04d}.{self.service}.{self.side}.{self.method}"

    @property
    def point(self) -> str:
        """Where it fires, for a report."""
        who = "orchestrator at" if self.side == "caller" else ""
        return f"{who} {self.service} {self.method} {self.edge} {self.detail}".strip()


@dataclass
class Fired:
    """A fault that a process has claimed; `tell` adds to its record."""

    fault: Fault
    path: Path
    record: dict[str, Any] = field(default_factory=dict)

    def tell(self, **facts: Any) -> None:
        """Keeps what came of it. Durable enough: a killed process leaves its page cache behind."""
        self.record.update(facts)
        beside = self.path.with_name(f"{self.path.name}.tmp")
        beside.write_text(json.dumps({"fault": asdict(self.fault), **self.record}))
        beside.replace(self.path)


class FaultPlan:
    """The directory, as seen by the harness that writes it and by the processes that claim from it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pending, self.fired = directory / "pending", directory / "fired"

    def write(self, faults: list[Fault], **settings: Any) -> None:
        """Lays out a new plan. `settings` are told to every process: see installation.py."""
        for folder in (self.pending, self.fired, self.directory / "calls"):
            folder.mkdir(parents=True)
        for fault in faults:
            (self.pending / fault.name).write_text(json.dumps(asdict(fault)))
        (self.directory / "settings.json").write_text(json.dumps(settings))

    def add(self, fault: Fault) -> None:
        """One more fault, which may fire at once."""
        beside = self.directory / f"{fault.name}.tmp"
        beside.write_text(json.dumps(asdict(fault)))
        beside.replace(self.pending / fault.name)

    @property
    def settings(self) -> dict[str, Any]:
        """What the plan was written with."""
        return dict(json.loads((self.directory / "settings.json").read_text()))

    @property
    def round(self) -> int:
        """The latest round that was called for; 0 before the first."""
        try:
            return int((self.directory / "round").read_text() or 0)
        except FileNotFoundError:
            return 0

    def reach(self, number: int) -> None:
        """Moves on to a round; never back."""
        if number > self.round:
            beside = self.directory / f"round.{os.getpid()}.tmp"
            beside.write_text(str(number))
            beside.replace(self.directory / "round")

    def claim(self, service: str, side: str, method: str) -> Fired | None:
        """The first fault that is due at this call, now ours; None where there is none."""
        now = self.round
        for name in sorted(os.listdir(self.pending)):
            due, at = name.split("-", 1)
            _, of_service, of_side, of_method = at.split(".")
            if int(due) > now:
                return None
            if (of_service, of_side) != (service, side) or of_method not in (method, "*"):
                continue
            try:
                os.rename(self.pending / name, self.fired / name)
            except FileNotFoundError:
                continue  # another process was faster
            fault = Fault(**json.loads((self.fired / name).read_text()))
            fired = Fired(fault, self.fired / name)
            fired.tell(pid=os.getpid(), at=time.monotonic(), round=now, called=method)
            return fired
        return None

    def all_fired(self) -> list[Fired]:
        """Every fault that has fired, in order of time."""
        found = []
        for path in sorted(self.fired.iterdir()):
            record = json.loads(path.read_text()) if path.suffix != ".tmp" else {}
            if "fault" in record:
                found.append(Fired(Fault(**record.pop("fault")), path, record))
        return sorted(found, key=lambda each: float(each.record["at"]))

    def all_pending(self) -> list[Fault]:
        """Every fault that has not."""
        return [Fault(**json.loads(path.read_text())) for path in sorted(self.pending.iterdir())]

    def calls(self) -> list[dict[str, Any]]:
        """Every call that an orchestrator made and that ended while it lived."""
        lines = [
            line
            for path in sorted((self.directory / "calls").iterdir())
            for line in path.read_text().splitlines()
        ]
        return [json.loads(line) for line in lines]
