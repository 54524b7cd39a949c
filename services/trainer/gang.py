"""The processes of a trainer with several ranks: how they start, obey and end together.

    rank 0   serves gRPC ─► execute(command) ─► sends it to all, executes it, compares what came of it
    others   follow(): the same command on the same batch, with a share of the passes

What all ranks find wrong in the same way is an error of the call, and all are as they were before. What goes
wrong on one alone while others wait for it (a killed process, memory) cannot be undone together: it ends
the gang, within seconds, with an error that names the rank; the service is started again and goes on
from its checkpoint and the ledger.

Started by torchrun the ranks find each other by its variables. With --ranks this process is rank 0 and starts
the others itself: one process to start, stop and watch, whose children end when it does.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from typing import Any, NoReturn

from torch.distributed import TCPStore  # type: ignore[attr-defined]  # its stub leaves it out

from services.errors import AlreadyExistsError, BusyError, NotReadyError, PreconditionError
from services.progress import ProgressFeed
from services.status import is_out_of_memory
from services.trainer.commands import Command
from services.trainer.ranks import Agreed, Ranks, described, of_peer
from services.trainer.trainer import Trainer

log = logging.getLogger(__name__)

Children = dict[int, "subprocess.Popen[bytes]"]

# Raised by every rank alike, since each sees the whole command and the same state.
EVERYWHERE = (ValueError, PreconditionError, AlreadyExistsError, NotReadyError, BusyError)
FAULT = "trueline/fault"
WATCH_SECONDS = 0.1
NAMING_SECONDS = 2.0  # for the dead rank's name to reach us once an exchange with it has failed
ANSWER_SECONDS = 5.0  # for the last answers to leave
HEARTBEATS = 4  # in the time that an exchange may take


class RankLost(NotReadyError):
    """A rank is gone, and the gang with it."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: the trainer ends and goes on from its checkpoint", "rank_lost")


class Gang:
    """Rank 0's hold on the others, or theirs on it. `lost` raises when the gang has to end."""

    def __init__(self, trainer: Trainer, children: Children | None = None) -> None:
        self.trainer = trainer
        self.ranks: Ranks = trainer.compute.ranks
        self.lost: Future[None] = Future()
        self._losing = threading.Lock()  # two threads may find it lost at once
        self._children = children or {}
        self._turn = threading.Lock()
        self._store: Any = None

    def join(self) -> None:
        """Meets the other ranks, then keeps watch over them."""
        if self.ranks.leads:
            _in_background(self._watch, "watch")
        try:
            self.ranks.join(self.trainer.compute.device)
        except Exception as error:
            self._end(error)
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self._store = TCPStore(*address, is_master=False, wait_for_workers=False)
        if self.ranks.leads:
            _in_background(self._beat, "heartbeat")
        log.info("ranks joined", extra={"rank": self.ranks.rank, "ranks": self.ranks.size})

    def execute(self, command: Command, progress: ProgressFeed) -> Any:
        """On rank 0: what the command gives, executed by all ranks."""
        with self._turn:
            self._check()
            try:
                self.ranks.sent(command)
            except Exception as error:
                self._end(error)
            return self._obey(command, progress)

    def follow(self, until_stdin_closes: bool) -> NoReturn:
        """On the others: obeys until rank 0 is gone, or standard input closes."""
        for number in (signal.SIGTERM, signal.SIGINT):  # they reach rank 0 too, which may end its call first
            signal.signal(number, signal.SIG_IGN)
        if until_stdin_closes:
            _in_background(_end_with_stdin, "stdin")
        self.join()
        while True:
            try:
                command = self.ranks.sent(None)
            except Exception:
                log.warning("rank 0 is gone: this rank ends")
                # As a failure, also where rank 0 was told to stop: a JobSet whose jobs all succeed is over
                # for good, and a drained node is no reason for that.
                _exit(1)
            if command is None:  # a heartbeat
                continue
            try:
                self._obey(command, ProgressFeed())
            except Exception:
                continue  # all ranks know, and rank 0 tells the caller

    def _obey(self, command: Command, progress: ProgressFeed) -> Any:
        """Executes a command here; a failure that others do not know of ends the gang."""
        result, fault = None, None
        try:
            result = self.trainer.execute(command, progress)
        except Agreed as error:
            fault = error.error
        except EVERYWHERE as error:
            fault = error
        except BaseException as error:
            self._end(error)
        try:
            self._compare(fault)
        except Exception as error:
            self._end(error)
        if fault is not None:
            raise fault
        return result

    def _compare(self, fault: Exception | None) -> None:
        """Raises RuntimeError where the ranks do not stand alike after a command."""
        standing = self.trainer.standing
        mine = (fault is None, standing.stage, standing.step, standing.weights_sha256)
        for rank, theirs in enumerate(self.ranks.gathered(mine)):
            if theirs != mine:
                raise RuntimeError(f"rank {rank} stands at {theirs}, rank {self.ranks.rank} at {mine}")

    def _beat(self) -> None:
        """Tells the others now and then that rank 0 lives, so that their wait for a command has a limit."""
        while not self.lost.done():
            time.sleep(self.ranks.timeout / HEARTBEATS)
            if self._turn.acquire(blocking=False):
                try:
                    self.ranks.sent(None)
                except Exception as error:
                    self._lose(self._named(error))
                finally:
                    self._turn.release()

    def _watch(self) -> None:
        """Sees a rank that died or reports its end, whatever the main thread waits for."""
        while not self.lost.done():
            time.sleep(WATCH_SECONDS)
            cause = self._cause()
            if cause is not None:
                self._lose(cause)

    def _cause(self) -> Exception | None:
        """Why a rank is gone, where one is and it is known."""
        # A killed rank says nothing, but those that lost it do: it comes before what they say.
        if (cause := self._ended(killed=True)) is not None:
            return cause
        try:
            if self._store is not None and self._store.check([FAULT]):
                rank, *words = json.loads(self._store.get(FAULT))
                error = of_peer(rank, *words)
                return _for_caller(error, str(error))
        except RuntimeError:
            pass  # the store is gone, and what held it too: the exchange that fails next says so
        return self._ended()

    def _ended(self, *, killed: bool = False) -> Exception | None:
        """The first rank of ours that has ended, or was killed."""
        for rank, child in self._children.items():
            code = child.poll()
            if code is not None and (code < 0 or not killed):
                ending = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
                return RankLost(f"rank {rank} ended with {ending}")
        return None

    def _named(self, error: BaseException) -> Exception:
        """The cause of a failed exchange: the rank that is gone, once that is known, else this failure."""
        deadline = time.monotonic() + NAMING_SECONDS
        while not is_out_of_memory(error) and time.monotonic() < deadline:  # type: ignore[arg-type]
            if (cause := self._cause()) is not None:
                return cause
            time.sleep(WATCH_SECONDS)
        return _for_caller(error, f"rank {self.ranks.rank}: {type(error).__name__}: {error}")

    def _end(self, error: BaseException) -> NoReturn:
        """Ends the gang for what went wrong on this rank, or came to it from another."""
        if self.ranks.leads:
            self._lose(self._named(error))
            self._check()
        log.error("this rank ends the gang", exc_info=error, extra={"rank": self.ranks.rank})
        try:
            if self._store is not None:
                rank_and_words = [self.ranks.rank, *described(error)]  # type: ignore[arg-type]
                # The first to say so is the cause; the others only lost it.
                self._store.compare_set(FAULT, "", json.dumps(rank_and_words))
        except RuntimeError:
            pass  # rank 0 is gone already
        _exit(1)

    def _lose(self, cause: Exception) -> None:
        with self._losing:
            if self.lost.done():
                return
            log.error("the gang is lost: the trainer ends", extra={"cause": str(cause)})
            # Whatever hangs, in an exchange or in a call, does so no longer than this.
            threading.Timer(ANSWER_SECONDS, os._exit, (1,)).start()
            self.lost.set_exception(cause)

    def _check(self) -> None:
        if self.lost.done():
            self.lost.result()


def _for_caller(error: BaseException, what: str) -> Exception:
    """Memory that ran out keeps its name, as the caller can do something about it; all else is RankLost."""
    if is_out_of_memory(error):  # type: ignore[arg-type]
        return MemoryError(f"{error}; the trainer ends and goes on from its checkpoint")
    return error if isinstance(error, RankLost) else RankLost(what)


def place_of(environment: dict[str, str], ranks: int, timeout: float) -> Ranks:
    """This process among its ranks, by torchrun's variables or as the first of `ranks`.

    ValueError where both say a number and they differ.
    """
    size = int(environment.get("WORLD_SIZE", ranks))
    if ranks not in (1, size):
        raise ValueError(f"{ranks}, but torchrun started {size} processes; leave the flag out under torchrun")
    return Ranks(int(environment.get("RANK", 0)), size, int(environment.get("LOCAL_RANK", 0)), timeout)


def start_others(ranks: Ranks) -> Children:
    """Starts ranks 1 and up on this machine; {} where torchrun has. They end when this process does."""
    if "WORLD_SIZE" in os.environ or ranks.size == 1:
        return {}
    global _store  # lives as long as the process: the ranks meet there
    _store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_store.port), "WORLD_SIZE": str(ranks.size)}
    # The store is ours, not to be opened by rank 0 once more: torchrun's agent says it so.
    os.environ.update(place, RANK="0", LOCAL_RANK="0", TORCHELASTIC_USE_AGENT_STORE="True")
    command = [sys.executable, "-m", "services.trainer", *sys.argv[1:], "--until-stdin-closes"]
    return {
        rank: subprocess.Popen(
            command, env={**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stdin=subprocess.PIPE
        )
        for rank in range(1, ranks.size)
    }


_store: Any = None


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    _exit(0)


def _in_background(work: Any, name: str) -> None:
    threading.Thread(target=work, name=name, daemon=True).start()


def _exit(code: int) -> NoReturn:
    """Ends the process as it is: an orderly end would wait for ranks that are gone."""
    logging.shutdown()
    os._exit(code)
