"""Events reach an API server whatever their notes hold."""

from collections.abc import Callable

import pytest

from orchestrator.cluster.api import Api, Identity
from orchestrator.cluster.events import Events
from tests.cluster.api_server import ApiServer


@pytest.mark.parametrize(
    ("note", "kept"),
    [
        ("short", "short"),
        ("a" * 1024, "a" * 1024),
        ("a" * 1025, "a" * 1021 + "..."),
        ("ж" * 512, "ж" * 512),
        ("ж" * 960, "ж" * 510 + "..."),
        ("👍" * 300, "👍" * 255 + "..."),
        ("half \ud83d", "half ?"),
    ],
    ids=["short", "just fits", "ascii", "cyrillic fits", "cyrillic", "emoji", "half a pair"],
)
def test_a_note_is_cut_to_the_bytes_that_an_event_may_hold(
    server: ApiServer, connect: Callable[[], Api], note: str, kept: str
) -> None:
    events = Events(connect(), Identity("pod", "u"))
    events.record("Note", note)
    events.close()
    assert [each["note"] for each in server.of("events")] == [kept]
