"""recipes/hf-dpo.yaml and hf-constitution.yaml from start to end, on a small model made on the spot."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.architectures import compared, demonstrated, exported_parameters, talks, write_rows
from orchestrator.launcher import REPOSITORY
from orchestrator.ledger import Ledger
from orchestrator.verify import verify
from tests.judge.scripted_endpoint import Endpoint, Reply, endpoint, logs, says, slots
from tests.loop.small import ledger_of, start, succeed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROUNDS, RESPONSES, REVISION = 2, 24, "sorry, we will mend it."
CONTEXT = 1024  # a local judge's question holds the constitution's words, in tokens that never saw them
MODEL, TRAINING, SHOWN = "{prepared}/model", "{prepared}/train.jsonl", "shown.jsonl"
SAMPLING = {"max_new_tokens": 16}
ROUND = {
    "prompts": TRAINING,
    "rounds": ROUNDS,
    "prompts_per_round": 16,
    "prompts_per_chunk": 8,
    "sampling": SAMPLING,
}
SMALL_DPO: dict[str, Any] = {
    "models.start": MODEL,
    "stages.sft.data": SHOWN,
    "stages.sft.minibatch_size": 16,
    **{f"stages.dpo.{name}": value for name, value in ROUND.items()},
}
SMALL_CONSTITUTION: dict[str, Any] = {
    "models.sft": MODEL,
    "stages.revise.prompts": TRAINING,
    "stages.collect.prompts": TRAINING,
    "stages.revise.prompt_limit": RESPONSES,
    "stages.revise.prompts_per_chunk": 8,
    "stages.revise.sampling": SAMPLING,
    "stages.revised.minibatch_size": 8,
    "stages.collect.prompt_limit": 32,
    "stages.collect.sampling": SAMPLING,
    "stages.reward.minibatch_size": 8,
    "stages.reward.normalisation.samples": 16,
    **{f"stages.ppo.{name}": value for name, value in ROUND.items()},
}
# A model that nobody taught hardly knows the options, and prefers whichever answer stands first.
LOCAL_JUDGE: dict[str, Any] = {
    "models.judge": MODEL,
    "services.judge.endpoint": None,
    "services.judge.endpoint_model": None,
    "services.judge.model": "judge",
    "stages.dpo.label.min_option_mass": 0.0,
    "stages.dpo.label.disagreement_tolerance": 1.0,
    "stages.dpo.label.tie_band": 0.0,
}


@pytest.fixture
def judge() -> Iterator[Endpoint]:
    """Prefers the longer answer in both orders, and has one revision for everything."""

    def script(told: str, _: int) -> Reply:
        if "(A) " not in told:
            return says(REVISION)
        first, second = (len(text) for text in slots(told))
        likely = 0.5 if first == second else 0.9 if first > second else 0.1
        return says("A" if likely > 0.5 else "B", logs(A=likely, B=1 - likely))

    with endpoint(script) as served:
        yield served


def run(runs: Path, recipe: str, shape: str, changes: dict[str, Any]) -> Ledger:
    """The recipe with everything small, as a person would start it; its ledger once it has ended well."""
    write_rows(runs / "rows.jsonl", (compared(talk, i, shape) for i, talk in enumerate(talks(240, 0))))
    write_rows(runs / SHOWN, (demonstrated(talk, shape) for talk in talks(240, 1)))
    command = ["python", "-m", "worlds.fromtext", "prepare", f"--data={runs / 'rows.jsonl'}"]
    command += ["--output={prepared}", "--seed={seed}", "--vocabulary=400", f"--context={CONTEXT}"]
    everywhere: dict[str, Any] = {
        "prepare": {"command": command},
        "stages.evaluate.prompts": "{prepared}/heldout.jsonl",
        "stages.evaluate.prompt_limit": 16,
        "stages.evaluate.sampling": SAMPLING,
    }
    changes = {path: str(runs / value) if value == SHOWN else value for path, value in changes.items()}
    sets = [f"--set={path}={json.dumps(value)}" for path, value in {**everywhere, **changes}.items()]
    path = str(REPOSITORY / "recipes" / f"hf-{recipe}.yaml")
    succeed(start("run", path, "--name", recipe, *sets, runs=runs), runs)
    ledger = ledger_of(runs, recipe)
    assert verify(ledger, runs / recipe).findings == []
    assert exported_parameters(runs / recipe / "export") > 0
    report = json.loads((runs / recipe / "report.json").read_text())
    assert report["status"] == "finished"
    assert [each["status"] for each in report["rounds"]] == ["committed"] * ROUNDS
    return ledger


def asking(judge: Endpoint) -> dict[str, Any]:
    """The recipe's judge, where it is to be found."""
    return {"services.judge.endpoint": judge.url, "services.judge.endpoint_model": "oracle"}


def trained(ledger: Ledger, before: str) -> bool:
    """True where the policy is another model than what it started from."""
    digests = [(ledger.latest_version(model) or {})["sha256"] for model in (before, "policy")]
    return bool(digests[0] != digests[1])


def test_dpo_learns_from_what_an_endpoint_prefers(tmp_path: Path, judge: Endpoint) -> None:
    ledger = run(tmp_path, "dpo", "trl", {**SMALL_DPO, **asking(judge)})
    assert trained(ledger, "sft")
    for number in range(1, ROUNDS + 1):
        found = ledger.phase("dpo", number, "labelled") or {}
        assert found["missing"] == {} and set(found["left_out"]) <= {"tie"}
        kept = found["pairs"] - sum(found["left_out"].values())
        assert kept > 0 and found["sources"] == {"judge": kept}
    assert not (tmp_path / "dpo" / "logs" / "reward-0.log").exists(), "nothing here asks a scorer"


def test_dpo_learns_from_what_a_local_model_prefers(tmp_path: Path) -> None:
    ledger = run(tmp_path, "dpo", "plain", {**SMALL_DPO, **LOCAL_JUDGE})
    assert trained(ledger, "sft")
    assert (ledger.phase("dpo", ROUNDS, "labelled") or {})["missing"] == {}


def test_the_constitution_is_learned_from_an_endpoint(tmp_path: Path, judge: Endpoint) -> None:
    ledger = run(tmp_path, "constitution", "plain", {**SMALL_CONSTITUTION, **asking(judge)})
    assert trained(ledger, "revised")
    rows = [
        json.loads(line)
        for line in (tmp_path / "constitution" / "data" / "revisions.jsonl").read_text().splitlines()
    ]
    assert len(rows) == RESPONSES
    assert {row["messages"][-1]["content"] for row in rows} == {REVISION}
    assert {step["judge"] for row in rows for step in row["trail"]} == {"oracle"}
    for row in ledger.all_comparisons("comparisons"):
        (better, worse, probability), responses = row["preferences"][0], row["responses"]
        chosen = responses[better if probability > 0.5 else worse]
        assert row["source"] == "judge" and len(chosen) == max(len(each) for each in responses)
