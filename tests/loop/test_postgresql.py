"""A whole small run whose ledger is in PostgreSQL, which crashes and comes back in the middle of a round."""

import time
from pathlib import Path

import pytest

from orchestrator.verify import verify
from tests.loop.small import begun, start_small, succeed
from tests.postgresql_server import postgresql_server

QUICK = ("stages.collect.prompt_limit=16", "stages.evaluate.prompt_limit=8", "stages.ppo.gold_every=100")


@pytest.mark.slow  # a whole run
@pytest.mark.timeout(600)
def test_a_run_outlives_a_restart_of_its_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with postgresql_server() as server:
        monkeypatch.setenv("TRUELINE_LEDGER", server.new_database("ledger"))
        process = start_small(tmp_path, "kept", *QUICK, "stages.ppo.rounds=3")
        monkeypatch.delenv("TRUELINE_LEDGER")
        deadline = time.monotonic() + 300
        ledger = begun(process, tmp_path, "kept", deadline)
        for phase in ("chunk-0", "trained"):
            while ledger.phase("ppo", 2, phase) is None:
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.01)
            server.stop()
            server.start()
        succeed(process, tmp_path, 300)
        assert not (tmp_path / "kept" / "ledger.db").exists()
        assert ledger.info()["epoch"] == 1 and ledger.info()["status"] == "finished"
        assert verify(ledger, tmp_path / "kept").findings == []
