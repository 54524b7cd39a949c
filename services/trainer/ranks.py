"""The ranks that train one model together: who does what, and how they stay in step.

Every rank executes every command on the whole batch and decides everything alike; only the forward and
backward passes are dealt out. So what ranks exchange is few: log-probs and sums by their places, a flag
where one of them may fail alone (a file, a disk), and what FSDP2 exchanges by itself. With one rank nothing
is exchanged and nothing here changes a bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from services.errors import FieldError, PreconditionError
from services.status import is_out_of_memory

Part = TypeVar("Part")
Result = TypeVar("Result")
Record = TypeVar("Record")


class Agreed(Exception):
    """A failure that every rank knows of: all go on from the same state; `error` is for the caller."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass
class Ranks:
    """This process among the ranks. `join` comes before anything is exchanged."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    timeout: float = 600.0  # seconds that an exchange may take
    mesh: Any = None  # of all ranks, for FSDP2
    _control: Any = None  # a gloo group: what is no tensor of a model never touches the GPU

    @property
    def leads(self) -> bool:
        """True for the rank that serves, writes and answers."""
        return self.rank == 0

    def join(self, device: torch.device) -> None:
        """Meets the other ranks where torchrun's variables say; returns when all are there."""
        from torch.distributed.device_mesh import init_device_mesh

        backend = "gloo" if device.type == "cpu" else f"cpu:gloo,{device.type}:nccl"
        limit = timedelta(seconds=self.timeout)
        dist.init_process_group(backend, rank=self.rank, world_size=self.size, timeout=limit)
        self._control = dist.new_group(backend="gloo", timeout=limit)
        self.mesh = init_device_mesh(device.type, (self.size,))

    def dealt(self, parts: Sequence[Part]) -> list[tuple[Part, bool]]:
        """This rank's parts, each with whether it counts; as many on every rank, as all must exchange alike.

        Three parts on two ranks: [(a, True), (c, True)] and [(b, True), (a, False)].
        """
        mine = [(part, True) for part in parts[self.rank :: self.size]]
        rounds = -(-len(parts) // self.size)
        return mine + [(part, False) for part in parts[:1]] * (rounds - len(mine))

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, the same bits on each. Where one rank alone is not 0 it is that one's."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def summed_fields(self, record: Record) -> Record:
        """A dataclass of scalar tensors with each of them summed over all ranks."""
        if self.size == 1:
            return record
        numbers = torch.stack([number.double() for number in vars(record).values()])
        return type(record)(*self.summed(numbers))

    def merged(self, mine: Mapping[int, Result]) -> dict[int, Result]:
        """Everybody's entries, in order of their keys."""
        entries: dict[int, Result] = {}
        for each in self.gathered(mine):
            entries.update(each)
        return dict(sorted(entries.items()))

    def gathered(self, mine: Result) -> list[Result]:
        """Everybody's value, in order of rank: plain data of ours."""
        if self.size == 1:
            return [mine]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, mine, group=self._control)
        return found

    def sent(self, message: Result) -> Result:
        """What the leading rank gives here, on every rank."""
        if self.size == 1:
            return message
        box = [message]
        dist.broadcast_object_list(box, src=0, group=self._control)
        return box[0]

    def agreed(self, work: Callable[[], Result]) -> Result:
        """Does what may fail on one rank alone, without exchanges; raises on all when it failed on any.

        The rank that failed raises its error, wrapped where its kind does not say that all raise it.
        """
        if self.size == 1:
            return work()
        result, fault = _attempted(work)
        faults = self.gathered(None if fault is None else described(fault))
        if fault is not None:
            raise fault if isinstance(fault, ValueError) else Agreed(fault)
        for rank, said in enumerate(faults):
            if said is not None:
                raise Agreed(of_peer(rank, *said))
        return result  # type: ignore[return-value]  # there was no fault

    def led(self, work: Callable[[], Result]) -> Result:
        """Work of the leading rank alone; its result, or its failure, is everybody's."""
        result = self.agreed(lambda: work() if self.leads else None)
        return self.sent(result)  # type: ignore[return-value]  # the leading rank's


def _attempted(work: Callable[[], Result]) -> tuple[Result | None, Exception | None]:
    try:
        return work(), None
    except Exception as error:
        return None, error


KINDS: dict[str, type[Exception]] = {"memory": MemoryError, "value": ValueError}


def described(fault: Exception) -> tuple[str, ...]:
    """A failure as plain words for other ranks: its kind, then what `of_peer` makes one of that kind of."""
    if isinstance(fault, FieldError):
        return "field", fault.field, str(fault.value), fault.limit
    if isinstance(fault, PreconditionError):
        return "precondition", fault.reason, str(fault)
    if is_out_of_memory(fault):
        return "memory", str(fault)
    return ("value" if isinstance(fault, ValueError) else "other"), f"{type(fault).__name__}: {fault}"


def of_peer(rank: int, kind: str, *words: str) -> Exception:
    """The failure of another rank as the error that says the same to the caller."""
    if kind == "field":
        return FieldError(*words)
    if kind == "precondition":
        return PreconditionError(*words)
    return KINDS.get(kind, RuntimeError)(f"rank {rank}: {words[0]}")
