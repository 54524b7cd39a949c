"""A whole small run whose reward is an ensemble: trained as members, served as one scorer, used by PPO."""

from pathlib import Path

import pytest

from orchestrator.report import load_report
from tests.loop.small import ledger_of, start_small, succeed

ENSEMBLE = (
    "stages.reward.members=2",
    "services.reward.learned=[reward-1, reward-2]",
    "services.reward.combined={reward: {combine: min, parts: [reward-1, reward-2]}}",
    "stages.ppo.critic=reward-1",
    "stages.reward.normalisation.length_controlled=true",
    "stages.ppo.rounds=3",
)


@pytest.mark.slow
def test_ppo_learns_from_an_ensemble_and_the_report_says_how_far_its_members_are_apart(
    tmp_path: Path,
) -> None:
    succeed(start_small(tmp_path, "pair", *ENSEMBLE), tmp_path)
    ledger = ledger_of(tmp_path, "pair")
    assert [row["stage"] for row in ledger.all_stages() if row["kind"] == "reward"] == [
        "reward-1",
        "reward-2",
    ]
    first, second = (ledger.latest_version(name) for name in ("reward-1", "reward-2"))
    assert first is not None and second is not None and first["sha256"] != second["sha256"]
    report = load_report(tmp_path / "pair")
    measured = [row for row in report["rounds"] if "gold" in row]
    assert [row["round"] for row in measured] == [1, 3]
    assert all(row["disagreement"] > 0 for row in measured)
    assert all(row["score_mean"] is not None for row in report["rounds"])
    assert report["overoptimisation"]["last_round"] == 3
    assert "gold_scores" not in report["rounds"][0]
