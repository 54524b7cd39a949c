"""The ledger: rows that stay, cursors that never go back, a lease that fences; on SQLite and PostgreSQL."""

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.ledger import Ledger, LedgerError, LostLease, open_engine, sqlite_url

Open = Callable[[], Ledger]  # another process's view of the one ledger


@pytest.fixture(params=["sqlite", "postgresql"])
def open_ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    if request.param == "sqlite":
        url = sqlite_url(tmp_path)
    else:
        url = request.getfixturevalue("postgresql").new_database(secrets.token_hex(4))
    return lambda: Ledger(open_engine(url), "run-a")


@pytest.fixture
def ledger(open_ledger: Open) -> Ledger:
    made = open_ledger()
    made.create(seed=0, recipe={"name": "run-a"}, recipe_sha256="r", code_sha256="c")
    made.take_lease()
    return made


COMPARISON = {
    "prompt_id": "p1", "prompt": {"text": "hello"}, "responses": ["a", "b"], "preferences": [[0, 1, 1.0]],
    "source": "simulated:gold", "held_out": False, "policy_version": {},
}  # fmt: skip
LABEL = {
    "item": "p1/0-1", "source": "judge", "prompt": {"text": "hello"}, "first": "a", "second": "b",
    "probability": 0.9,
}  # fmt: skip


def test_a_run_is_created_once(ledger: Ledger, open_ledger: Open) -> None:
    with pytest.raises(LedgerError, match="run-a exists: resume it"):
        open_ledger().create(seed=1, recipe={}, recipe_sha256="x", code_sha256="y")
    assert ledger.info()["seed"] == 0


def test_an_unknown_run_is_named(ledger: Ledger) -> None:
    unknown = Ledger(ledger.database.engine, "run-b")
    for ask in (unknown.info, unknown.take_lease):
        with pytest.raises(LedgerError, match="run-b is not in this ledger"):
            ask()


def test_taking_the_lease_fences_the_earlier_holder(ledger: Ledger, open_ledger: Open) -> None:
    second = open_ledger()
    assert second.take_lease() == ledger.epoch + 1
    with pytest.raises(LostLease, match="epoch 1 is not the lease any more; .+ took epoch 2"):
        ledger.finish_phase("ppo", 1, "sampled", {})
    assert second.phase("ppo", 1, "sampled") is None
    second.finish_phase("ppo", 1, "sampled", {"chunks": 2})
    assert ledger.phase("ppo", 1, "sampled") == {"chunks": 2}


def test_every_write_is_fenced(ledger: Ledger, open_ledger: Open) -> None:
    ledger.begin_stage("ppo", "ppo", 1)
    ledger.begin_round("ppo", 1, 8)
    open_ledger().take_lease()
    writes: list[Callable[[], Any]] = [
        lambda: ledger.set_run(status="failed"),
        lambda: ledger.note("late"),
        lambda: ledger.begin_stage("evaluate", "evaluate", 2),
        lambda: ledger.add_stage_seconds("ppo", 1.0),
        lambda: ledger.finish_stage("ppo", {}),
        lambda: ledger.begin_round("ppo", 2, 8),
        lambda: ledger.commit_round("ppo", 1, {}, 1.0),
        lambda: ledger.roll_back_rounds("ppo", 0),
        lambda: ledger.remove_payloads("ppo", [1]),
        lambda: ledger.finish_phase("ppo", 1, "trained", {}),
        lambda: ledger.add_version("policy", 1, "abc", "/v1", "ppo", 1),
        lambda: ledger.remove_version("policy", 1, None),
        lambda: ledger.add_checkpoint("ppo", 1, "/c1", "abc"),
        lambda: ledger.remove_checkpoint("ppo", 1),
        lambda: ledger.add_comparisons("c", [COMPARISON]),
        lambda: ledger.add_labels("collect", 1, [LABEL]),
        lambda: ledger.answer_label("collect", 1, "p1/0-1", "ann", probability=1.0),
        lambda: ledger.set_aside("collect", 1, ["p1/0-1"]),
    ]
    for write in writes:
        with pytest.raises(LostLease):
            write()
    assert ledger.info()["status"] == "new" and ledger.info()["notes"] == []
    assert ledger.all_versions() == [] and len(ledger.all_rounds("ppo")) == 1


def test_rounds_reserve_consecutive_places_of_the_cursor_and_keep_them(ledger: Ledger) -> None:
    first, second = ledger.begin_round("ppo", 1, 8), ledger.begin_round("ppo", 2, 8)
    assert (first.cursor_start, first.cursor_end) == (0, 8)
    assert (second.cursor_start, second.cursor_end) == (8, 16)
    assert ledger.begin_round("ppo", 1, 8) == first, "a round begun again has the places it had"


def test_prompts_of_rounds_that_were_rolled_back_stay_used(ledger: Ledger) -> None:
    for number in (1, 2, 3):
        ledger.begin_round("ppo", number, 8)
        ledger.commit_round("ppo", number, {"kl": 1.0}, 0.5)
    ledger.roll_back_rounds("ppo", after=1)
    assert [row.status for row in ledger.all_rounds("ppo")] == ["committed", "rolled_back", "rolled_back"]
    assert ledger.begin_round("ppo", 4, 8).cursor_start == 24


def test_a_phase_is_recorded_once(ledger: Ledger, open_ledger: Open) -> None:
    for _ in range(2):
        ledger.finish_phase("ppo", 1, "trained", {"step": 1, "kept": (1, 2)})
    with pytest.raises(LedgerError, match="ppo 1 trained is recorded already, by epoch 1"):
        ledger.finish_phase("ppo", 1, "trained", {"step": 2})
    other = open_ledger()
    other.take_lease()
    with pytest.raises(LedgerError, match="ppo 1 trained is recorded already, by epoch 1"):
        other.finish_phase("ppo", 1, "trained", {"step": 1, "kept": [1, 2]})
    assert ledger.phase("ppo", 1, "trained") == {"step": 1, "kept": [1, 2]}


def test_phases_stand_in_the_order_of_their_writing(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, (clock, phase) in enumerate([(100.0, "sampled"), (50.0, "scored"), (75.0, "trained")]):
        monkeypatch.setattr("time.time", lambda now=clock: now)
        ledger.finish_phase("ppo", 1, phase, {"number": number})
    rows = ledger.phase_rows()
    assert [row["phase"] for row in rows] == ["sampled", "scored", "trained"]
    assert [row["sequence"] for row in rows] == [1, 2, 3]


def test_a_round_is_committed_once(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="ppo 1 is committed and never began"):
        ledger.commit_round("ppo", 1, {}, 1.0)
    ledger.begin_round("ppo", 1, 8)
    for _ in range(2):
        ledger.commit_round("ppo", 1, {"kl": 1.0}, 0.5)
    with pytest.raises(LedgerError, match="ppo 1 is committed already, with other numbers"):
        ledger.commit_round("ppo", 1, {"kl": 2.0}, 0.5)
    made = ledger.round("ppo", 1)
    assert made is not None and made.metrics == {"kl": 1.0}


def test_a_version_is_kept_once_and_never_under_another_digest(ledger: Ledger) -> None:
    for _ in range(2):
        ledger.add_version("policy", 3, "abc", "/models/policy/v000003", "ppo", 3)
    with pytest.raises(LedgerError, match="policy version 3 is abc here, not def"):
        ledger.add_version("policy", 3, "def", "/elsewhere", "ppo", 3)
    newest = ledger.latest_version("policy")
    assert newest is not None and newest["sha256"] == "abc"


def test_the_model_published_last_is_found_though_the_clock_went_back(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    for clock, model in ((200.0, "sft"), (100.0, "policy")):
        monkeypatch.setattr("time.time", lambda now=clock: now)
        ledger.add_version(model, 1, model, "/v", "stage", 1)
    assert ledger.newest_model() == "policy"


def test_a_label_is_kept_once_and_no_other_pair_takes_its_name(ledger: Ledger) -> None:
    ledger.add_labels("collect", 1, [LABEL])
    ledger.add_labels("collect", 1, [{**LABEL, "probability": 0.1}, {**LABEL, "item": "p2/0-1"}])
    assert [each["probability"] for each in ledger.labels_of("collect", 1)] == [0.9, 0.9]
    with pytest.raises(LedgerError, match="another pair named 'p1/0-1'"):
        ledger.add_labels("collect", 1, [{**LABEL, "item": "p3/0-1"}, {**LABEL, "first": "c"}])
    assert len(ledger.all_labels()) == 2, "all of a call or nothing"
    for tries in (1, 2):
        ledger.set_aside("collect", 1, ["p1/0-1"])
        names = [each["item"] for each in ledger.labels_of("collect", 1)]
        assert f"aside-{tries}:p1/0-1" in names and "p1/0-1" not in names and "p2/0-1" in names
        ledger.add_labels("collect", 1, [LABEL])


def test_a_collection_of_comparisons_is_kept_whole_or_not_at_all(ledger: Ledger) -> None:
    rows = [COMPARISON, {**COMPARISON, "prompt_id": "p2"}]
    for _ in range(2):
        ledger.add_comparisons("c", rows)
    for others in (rows[:1], [*rows, COMPARISON], rows[::-1]):
        with pytest.raises(LedgerError, match="collection 'c' is here already"):
            ledger.add_comparisons("c", others)
    assert [each["prompt_id"] for each in ledger.all_comparisons("c")] == ["p1", "p2"]
    assert ledger.collections() == ["c"]


def test_seconds_of_a_resumed_stage_add_up(ledger: Ledger) -> None:
    ledger.begin_stage("ppo", "ppo", 1)
    ledger.add_stage_seconds("ppo", 1.5)
    ledger.add_stage_seconds("ppo", 2.0)
    row = ledger.stage("ppo")
    assert row is not None and row["seconds"] == 3.5


def test_another_process_reads_what_was_written(ledger: Ledger, open_ledger: Open) -> None:
    text = 'quotes " and \x00 and é'
    ledger.finish_phase("sft", 1, "trained", {"metrics": {"loss": 0.1, "text": text}})
    assert open_ledger().phase("sft", 1, "trained") == {"metrics": {"loss": 0.1, "text": text}}


def test_a_number_that_is_not_finite_comes_back_as_it_was(ledger: Ledger, open_ledger: Open) -> None:
    ledger.finish_phase("ppo", 1, "measured", {"gold": float("inf"), "rows": [1.0, float("-inf")]})
    assert open_ledger().phase("ppo", 1, "measured") == {"gold": float("inf"), "rows": [1.0, float("-inf")]}
    ledger.finish_phase("ppo", 2, "measured", {"gold": float("nan")})
    kept = open_ledger().phase("ppo", 2, "measured")
    assert kept is not None and kept["gold"] != kept["gold"]


def test_a_write_whose_answer_was_lost_is_repeated_without_a_trace(open_ledger: Open) -> None:
    """Every transaction is committed, and then run again, as after a connection that broke in its commit."""
    ledger = open_ledger()
    write = ledger.database.write

    def twice(work: Callable[[Any], Any]) -> Any:
        write(work)
        return write(work)

    ledger.database.write = twice  # type: ignore[method-assign]
    ledger.create(seed=0, recipe={}, recipe_sha256="r", code_sha256="c")
    assert ledger.take_lease() == 1 and ledger.take_lease() == 2, "a lease that is taken anew is another"
    ledger.note("once")
    ledger.begin_stage("ppo", "ppo", 1)
    ledger.add_stage_seconds("ppo", 1.5)
    for number in (1, 2):
        ledger.begin_round("ppo", number, 8)
        ledger.finish_phase("ppo", number, "trained", {"step": number})
        ledger.add_version("policy", number, "abc", "/v", "ppo", number)
        ledger.add_checkpoint("ppo", number, "/c", "abc")
        ledger.commit_round("ppo", number, {}, 1.0)
    ledger.add_comparisons("c", [COMPARISON])
    ledger.finish_stage("ppo", {"rounds": 2})
    assert ledger.info()["epoch"] == 2 and ledger.info()["notes"] == ["once"]
    stage = ledger.stage("ppo")
    assert stage is not None and stage["seconds"] == 1.5
    assert [row.cursor_end for row in ledger.all_rounds("ppo")] == [8, 16]
    assert [row["sequence"] for row in ledger.phase_rows()] == [1, 3]
    assert [row["sequence"] for row in ledger.all_versions()] == [2, 4]
    assert len(ledger.all_checkpoints()) == 2 and len(ledger.all_comparisons("c")) == 1
