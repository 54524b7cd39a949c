"""One leads: takeover, conflicts, an API server that is away."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from orchestrator.cluster.api import Api
from orchestrator.cluster.election import Election, Timing
from tests.cluster.api_server import ApiServer

QUICK = Timing(duration=2, retry=0.1)


def until(holds: Callable[[], object], seconds: float = 20.0) -> float:
    """Seconds that passed until it held."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds
        time.sleep(0.02)
    return time.monotonic() - began


@contextmanager
def candidates(connect: Callable[[], Api], count: int, timing: Timing) -> Iterator[list[Election]]:
    made = [Election(connect(), "orchestrator", f"pod-{index}", timing) for index in range(count)]
    for each in made:
        each.start()
    try:
        yield made
    finally:
        for each in made:
            each.stop()


def die(election: Election) -> None:
    """Ends an election as kill -9 would: nothing is given back."""
    election._stopping.set()
    election._thread.join()


def spec(server: ApiServer) -> dict:
    return server.read("leases", "orchestrator")["spec"]


def test_one_of_three_leads_and_another_takes_over_when_it_dies(server, connect) -> None:
    with candidates(connect, 3, QUICK) as made:
        until(lambda: sum(each.leading for each in made) == 1 and all(each.holder for each in made))
        (leader,) = [each for each in made if each.leading]
        others = [each for each in made if each is not leader]
        assert {each.holder for each in made} == {leader.identity} == {spec(server)["holderIdentity"]}
        time.sleep(QUICK.duration + 0.5)
        assert leader.leading and not any(each.leading for each in others), "it renews"
        die(leader)
        took = until(lambda: any(each.leading for each in others))
        assert QUICK.duration - 4 * QUICK.retry < took < QUICK.duration + 1.0
        assert sum(each.leading for each in others) == 1
        assert spec(server)["leaseTransitions"] == 1


@pytest.mark.slow
def test_with_the_settings_of_the_cluster_the_standby_leads_within_30_seconds(connect) -> None:
    with candidates(connect, 2, Timing()) as made:
        until(lambda: any(each.leading for each in made) and all(each.holder for each in made))
        leader, other = sorted(made, key=lambda each: not each.leading)
        die(leader)
        assert until(lambda: other.leading, 40) < 30


def test_a_leader_that_stops_gives_the_lease_back_and_nobody_waits(server, connect) -> None:
    with candidates(connect, 1, Timing(duration=60, retry=0.1)) as (first,):
        until(lambda: first.leading)
        with candidates(connect, 1, Timing(duration=60, retry=0.1)) as (second,):
            until(lambda: second.holder == first.identity)
            first.stop()
            assert until(lambda: second.leading) < 5
    assert spec(server)["holderIdentity"] == "", "the second gave it back too"


def test_while_the_api_server_is_away_the_leader_leads_on_and_nobody_else(server, connect) -> None:
    with candidates(connect, 2, QUICK) as made:
        until(lambda: any(each.leading for each in made) and all(each.holder for each in made))
        leader, other = sorted(made, key=lambda each: not each.leading)
        with server.away():
            # A minute at the cluster's settings is 4 durations.
            for _ in range(8):
                time.sleep(QUICK.duration / 2)
                assert leader.leading and not other.leading
            assert not leader.fresh and not other.fresh and other.alive
        until(lambda: leader.fresh and other.fresh)
        # One of them, whoever was first; the other one finds out when it looks the next time.
        assert until(lambda: leader.leading != other.leading) < 5


def test_a_leader_that_was_away_sees_that_another_leads(server, connect) -> None:
    first = Election(connect(), "orchestrator", "first", QUICK)
    first.look(0.0)
    assert first.leading
    taken = server.read("leases", "orchestrator")
    server.put(
        "leases", {**taken, "spec": {**taken["spec"], "holderIdentity": "second", "leaseTransitions": 1}}
    )
    first.look(1.0)
    assert not first.leading and first.holder == "second"
    first.look(2.9)
    assert not first.leading, "not before the second's 2 s are over since it was first seen"
    first.look(3.1)
    assert first.leading and spec(server)["leaseTransitions"] == 2


def test_of_two_who_want_a_free_lease_at_once_the_slower_one_is_refused(server, connect, monkeypatch) -> None:
    slow, fast = (Election(connect(), "orchestrator", name, QUICK) for name in ("slow", "fast"))
    replace = slow.api.create_lease

    def late(lease: dict) -> None:
        fast.look(0.0)
        replace(lease)

    monkeypatch.setattr(slow.api, "create_lease", late)
    slow.look(0.0)
    assert fast.leading and not slow.leading
    slow.look(0.1)
    assert slow.holder == "fast"


def test_what_the_role_does_not_allow_is_refused_and_said(server, connect, caplog) -> None:
    server.role["rules"] = [rule for rule in server.role["rules"] if "update" not in rule["verbs"]]
    with candidates(connect, 1, QUICK) as (one,):
        until(lambda: "403 Forbidden" in caplog.text)
        assert not one.leading
