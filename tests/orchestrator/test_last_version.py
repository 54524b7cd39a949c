"""The version that a stage ends with is held against the hard KL budget, though no round samples from it."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.rounds import run_dpo, run_ppo
from orchestrator.run import Run
from tests.preferences.whole_run import ALGORITHM, DPO, recounted, whole_run
from trueline.v1 import policy_pb2

FAST, SLOW = {"learning_rate": 0.1}, {"learning_rate": 0.0001}
RUNNERS: dict[str, Any] = {"ppo": run_ppo, "dpo": run_dpo}


def stage(kind: str, tmp_path: Path, rate: dict[str, float], hard: float, **changes: Any) -> dict[str, Any]:
    """One round of two chunks."""
    budget = {"kl_budget_hard": hard}
    shared = {name: value for name, value in DPO.items() if not name.startswith("gold")} | {"rounds": 1}
    if kind == "dpo":
        return {**shared, "algorithm": {**ALGORITHM, "optimizer": rate}, **budget, **changes}
    del shared["label"]
    algorithm = {"policy_optimizer": rate, "critic_optimizer": rate, "kl_coefficient": 0.0, **budget}
    own = {"kind": "ppo", "scorer": "words", "samples_per_prompt": 4, "algorithm": algorithm}
    return {**shared, **own, "prompts": str(tmp_path / "prompts.jsonl"), **changes}


async def done(run: Run) -> dict[str, Any]:
    (name,) = run.recipe.stages
    result: dict[str, Any] = await RUNNERS[name](run, name, run.recipe.stages[name])
    return result


def dies(*_: Any, **__: Any) -> Any:
    raise RuntimeError("killed")


def drawn(run: Run) -> list[str]:
    """The chunks that the policy draws from now on."""
    generate, asked = run.peers.policy.generate, list[str]()

    async def counted(request: policy_pb2.GenerateRequest, deadline: float) -> policy_pb2.GenerateResponse:
        asked.append(f"{request.expected_version.model}@{request.expected_version.number}")
        return await generate(request, deadline=deadline)

    run.peers.policy.generate = counted  # type: ignore[method-assign, assignment]
    return asked


@pytest.mark.parametrize("kind", ["ppo", "dpo"])
async def test_a_last_step_that_jumps_over_the_budget_is_rolled_back(tmp_path: Path, kind: str) -> None:
    """Once, however often the run dies on the way: no chunk is drawn again."""
    async with whole_run(tmp_path, {kind: stage(kind, tmp_path, FAST, hard=0.01)}) as run:
        asked = drawn(run)
        for place, what in ((run.peers.trainer, "roll_back"), (run.ledger, "roll_back_rounds")):
            with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
                patch.setattr(place, what, dies)
                await done(run)
            assert recounted(run).findings == []
        assert [each.split("@")[0] for each in asked] == ["start"] * 2 + ["policy"] * 2
        result = await done(run)
        assert await done(run) == result and len(asked) == 4
    assert (result["rounds"], result["committed"]) == (1, 0)
    assert [row.status for row in run.ledger.all_rounds(kind)] == ["rolled_back"]
    back = run.ledger.phase(kind, 1, "rolled_back") or {}
    held = run.ledger.phase(kind, 1, "held") or {}
    assert back == {"good": 0, "number": 2, "kl": held["kl_reference_k1"]} and back["kl"] >= 0.01
    assert held["rollouts"] == 24
    newest = run.ledger.latest_version("policy")
    assert newest is not None and newest["number"] == 2
    start, last = (Path(each) / "model.safetensors" for each in (tmp_path / "start", newest["uri"]))
    assert start.read_bytes() == last.read_bytes()
    note = run.ledger.info()["notes"][-1]
    assert note.startswith(f"{kind}: round 1 made a version whose KL is at the hard budget; rolled back to")
    assert recounted(run).findings == []


@pytest.mark.parametrize("kind", ["ppo", "dpo"])
async def test_a_budget_that_is_kept_changes_no_weight_and_none_costs_nothing(
    tmp_path: Path, kind: str
) -> None:
    weights = []
    for hard, chunks in ((0.0, 4), (100.0, 6)):
        directory = tmp_path / str(hard)
        directory.mkdir()
        settings = stage(kind, directory, SLOW, hard, rounds=2)
        async with whole_run(directory, {kind: settings}) as run:
            asked = drawn(run)
            assert (await done(run))["committed"] == 2
        held = run.ledger.phase(kind, 2, "held")
        assert (held is None) == (hard == 0.0) and (held or {"kl_reference_k1": 0.0})["kl_reference_k1"] < 1.0
        newest = run.ledger.latest_version("policy") or {}
        assert newest["number"] == 2 and recounted(run).findings == []
        weights.append(newest["sha256"])
        assert len(asked) == chunks
    assert weights[0] == weights[1]


async def test_filtered_samples_tell_no_kl_and_the_report_says_so(tmp_path: Path) -> None:
    sampling = {"max_new_tokens": 8, "top_p": 0.9}
    settings = stage("ppo", tmp_path, FAST, hard=0.01, sampling=sampling)
    async with whole_run(tmp_path, {"ppo": settings}) as run:
        assert (await done(run))["committed"] == 1
    (note,) = run.ledger.info()["notes"]
    assert note.startswith("ppo: its last version is not held against the hard budget, since top_p")
