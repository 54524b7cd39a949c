"""A run's progress as Kubernetes Events of the orchestrator's pod, beside what the log says.

    kubectl events --for pod/orchestrator-7d9f-x2x
    Normal   Leading        drives helpdesk from the ledger
    Normal   StageStarted   stage 5/7 ppo, 40 steps
    Normal   StepDone       ppo 12/40 reward 0.52 KL 1.3

Told by a thread of their own, and dropped while the API server is away: a run waits for no Event.
"""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Mapping

from orchestrator.cluster.api import FAILURES, Api, Identity, Object
from orchestrator.cluster.election import micro_time, told
from orchestrator.progress import Progress, duration, shown_metrics

log = logging.getLogger(__name__)

CONTROLLER = "trueline.dev/orchestrator"
NOTE_LIMIT = 1024  # bytes of UTF-8 that an Event may hold
STEP_SECONDS = (
    60.0  # between two Events about steps; an Event lives for an hour, and there may be many rounds
)
WAITING = 100


class Events:
    """Records Events about a pod."""

    def __init__(self, api: Api, pod: Identity) -> None:
        self.api, self.pod = api, pod
        self._waiting: queue.Queue[Object | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._send, name="events", daemon=True)
        self._thread.start()

    def record(self, reason: str, note: str, *, warning: bool = False) -> None:
        """One Event; dropped where too many are waiting."""
        regarding = {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": self.pod.name,
            "namespace": self.api.namespace,
        }
        event = {
            "metadata": {"generateName": f"{self.pod.name}."},
            "eventTime": micro_time(),
            "reportingController": CONTROLLER,
            "reportingInstance": self.pod.name,
            "action": "Driving",
            "reason": reason,
            "note": shortened(note),
            "type": "Warning" if warning else "Normal",
            "regarding": {**regarding, **({"uid": self.pod.uid} if self.pod.uid else {})},
        }
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(event)

    def close(self, seconds: float = 5.0) -> None:
        """Waits so long at most for what is still to be told."""
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(seconds)

    def _send(self) -> None:
        while (event := self._waiting.get()) is not None:
            try:
                self.api.create_event(event)
            except FAILURES as error:
                log.warning("an Event (%s) was not recorded: %s", event["reason"], told(error))


def shortened(note: str) -> str:
    """What of a note an Event can hold; a longer one is cut at the edge of a character."""
    data = note.encode(errors="replace")  # half a surrogate pair has no bytes
    if len(data) <= NOTE_LIMIT:
        return data.decode()
    return data[: NOTE_LIMIT - 3].decode(errors="ignore") + "..."


class EventProgress:
    """Tells a Progress and records Events."""

    def __init__(self, progress: Progress, events: Events) -> None:
        self.progress, self.events = progress, events
        self.stepped = 0.0

    def stage_started(self, name: str, kind: str, index: int, count: int, total_steps: int) -> None:
        """See Progress."""
        self.progress.stage_started(name, kind, index, count, total_steps)
        steps = f", {total_steps} steps" if total_steps else ""
        self.events.record("StageStarted", f"stage {index}/{count} {name}{steps}")

    def step_done(self, name: str, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """See Progress. The last step is always recorded, the others once a minute."""
        self.progress.step_done(name, done, total, metrics)
        now = time.monotonic()
        if done == total or not self.stepped or now - self.stepped >= STEP_SECONDS:
            self.stepped = now
            figures = "".join(f" {title} {value}" for title, value in shown_metrics(metrics))
            self.events.record(
                "StepDone", f"{name} {done}/{total}{figures}" if total else f"{name} {done}{figures}"
            )

    def note(self, text: str) -> None:
        """See Progress."""
        self.progress.note(text)
        self.events.record("Note", text)

    def stage_finished(self, name: str, seconds: float) -> None:
        """See Progress."""
        self.progress.stage_finished(name, seconds)
        self.events.record("StageFinished", f"{name} done in {duration(seconds)}")

    def close(self) -> None:
        """See Progress."""
        self.progress.close()
