"""The ledger: rows that stay, cursors that never go back, and a lease that fences."""

from pathlib import Path

import pytest

from orchestrator.ledger import Ledger, LedgerError, LostLease, open_engine, sqlite_url


def ledger_in(directory: Path, name: str = "run-a") -> Ledger:
    ledger = Ledger(open_engine(sqlite_url(directory)), name)
    ledger.create(seed=0, recipe={"name": name}, recipe_sha256="r", code_sha256="c")
    ledger.take_lease()
    return ledger


def test_a_run_is_created_once(tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)
    with pytest.raises(LedgerError, match="run-a exists: resume it"):
        ledger.create(seed=1, recipe={}, recipe_sha256="x", code_sha256="y")
    assert ledger.info()["seed"] == 0


def test_an_unknown_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="run-b is not in this ledger"):
        Ledger(open_engine(sqlite_url(tmp_path)), "run-b").info()


def test_taking_the_lease_fences_the_earlier_holder(tmp_path: Path) -> None:
    first = ledger_in(tmp_path)
    second = Ledger(open_engine(sqlite_url(tmp_path)), "run-a")
    assert second.take_lease() == first.epoch + 1
    with pytest.raises(LostLease, match="epoch 1 is not the lease any more"):
        first.finish_phase("ppo", 1, "sampled", {})
    assert second.phase("ppo", 1, "sampled") is None
    second.finish_phase("ppo", 1, "sampled", {"chunks": 2})
    assert first.phase("ppo", 1, "sampled") == {"chunks": 2}


def test_rounds_reserve_consecutive_places_of_the_cursor_and_keep_them(tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)
    first, second = ledger.begin_round("ppo", 1, 8), ledger.begin_round("ppo", 2, 8)
    assert (first.cursor_start, first.cursor_end) == (0, 8)
    assert (second.cursor_start, second.cursor_end) == (8, 16)
    assert ledger.begin_round("ppo", 1, 8) == first, "a round begun again has the places it had"


def test_prompts_of_rounds_that_were_rolled_back_stay_used(tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)
    for number in (1, 2, 3):
        ledger.begin_round("ppo", number, 8)
        ledger.commit_round("ppo", number, {"kl": 1.0}, 0.5)
    ledger.roll_back_rounds("ppo", after=1)
    assert [row.status for row in ledger.all_rounds("ppo")] == ["committed", "rolled_back", "rolled_back"]
    assert ledger.begin_round("ppo", 4, 8).cursor_start == 24


def test_a_phase_is_recorded_once(tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)
    ledger.finish_phase("ppo", 1, "trained", {"step": 1})
    with pytest.raises(Exception, match="UNIQUE"):
        ledger.finish_phase("ppo", 1, "trained", {"step": 2})
    assert ledger.phase("ppo", 1, "trained") == {"step": 1}


def test_a_version_is_kept_once_and_never_under_another_digest(tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)
    for _ in range(2):
        ledger.add_version("policy", 3, "abc", "/models/policy/v000003", "ppo", 3)
    with pytest.raises(LedgerError, match="policy version 3 is abc here, not def"):
        ledger.add_version("policy", 3, "def", "/elsewhere", "ppo", 3)
    newest = ledger.latest_version("policy")
    assert newest is not None and newest["sha256"] == "abc"


def test_a_collection_of_comparisons_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)
    row = {
        "prompt_id": "p1", "prompt": {"text": "hello"}, "responses": ["a", "b"], "preferences": [[0, 1, 1.0]],
        "source": "simulated:gold", "held_out": False, "policy_version": {},
    }  # fmt: skip
    ledger.add_comparisons("c", [row, {**row, "prompt_id": "p2"}])
    ledger.add_comparisons("c", [row])
    assert [each["prompt_id"] for each in ledger.all_comparisons("c")] == ["p1", "p2"]


def test_another_process_reads_what_was_written(tmp_path: Path) -> None:
    ledger_in(tmp_path).finish_phase("sft", 1, "trained", {"metrics": {"loss": 0.5}})
    assert Ledger(open_engine(sqlite_url(tmp_path)), "run-a").phase("sft", 1, "trained") == {
        "metrics": {"loss": 0.5}
    }
