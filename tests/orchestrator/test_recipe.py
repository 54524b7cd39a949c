"""Recipes: strict, every fault at once with its path and line, the same digest for the same run."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from orchestrator.recipe import Recipe, RecipeError, load_recipe
from orchestrator.recipe_algorithms import PpoAlgorithm, PreferenceAlgorithm
from orchestrator.recipe_settings import OptimizerSettings, SamplingSettings
from orchestrator.recipe_stages import STAGE_KINDS, RewardStage, SftStage
from trueline.v1 import trainer_pb2, types_pb2

RECIPES = Path(__file__).parents[2] / "recipes"
HELPDESK = RECIPES / "helpdesk-ppo.yaml"

SMALL = """\
name: small
prepare: {command: [python, -m, world, --output, "{prepared}", --seed, "{seed}"]}
models: {start: "{prepared}/model"}
services:
  reward: {learned: [judge], rules: {gold: "world:gold"}}
stages:
  sft:
    kind: sft
    init: start
    output: tuned
    data: "{prepared}/data.jsonl"
    minibatch_size: 8
    micro_batch_size: 8
    max_tokens: 64
    optimizer: {learning_rate: 3e-4}
  collect:
    kind: collect
    policy: tuned
    prompts: "{prepared}/prompts.jsonl"
    sampling: {max_new_tokens: 16}
    label: {kind: simulated, scorer: gold}
    output: comparisons
  reward:
    kind: reward
    init: tuned
    comparisons: comparisons
    output: judge
    minibatch_size: 8
    micro_batch_size: 8
    max_tokens: 64
    optimizer: {learning_rate: 1.0e-3}
"""


def written(directory: Path, text: str = SMALL) -> Path:
    path = directory / "recipe.yaml"
    path.write_text(text)
    return path


def faults_of(directory: Path, text: str, overrides: list[str] | None = None) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(written(directory, text), overrides or [])
    return caught.value.faults


def changed(old: str, new: str) -> str:
    assert SMALL.count(old) >= 1, old
    return SMALL.replace(old, new, 1)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_of_the_repository_loads(path: Path) -> None:
    assert load_recipe(path).name == path.stem


def test_placeholders_become_paths_of_the_run_and_python_this_interpreter(tmp_path: Path) -> None:
    recipe = load_recipe(HELPDESK, seed=3, run_dir=tmp_path / "run")
    prepared = str(tmp_path / "run" / "prepared")
    assert recipe.prepare is not None
    assert recipe.prepare.command[:4] == [sys.executable, "-m", "worlds.helpdesk", "prepare"]
    assert {f"--output={prepared}", "--seed=3"} < set(recipe.prepare.command)
    assert recipe.models == {"start": f"{prepared}/model"}
    assert recipe.stages["ppo"].prompts == f"{prepared}/prompts.jsonl"  # type: ignore[union-attr]
    assert recipe.stages["export"].directory == str(tmp_path / "run" / "export")  # type: ignore[union-attr]


def test_every_fault_is_listed_at_once_in_the_order_of_the_lines(tmp_path: Path) -> None:
    text = (
        changed("{seed}", "{sead}").replace("init: start", "init: strat").replace("16}", "0, temprature: 1}")
    )
    text = text.replace("max_tokens: 64\n", "max_tokens: yes\n", 1).replace("{learning_rate: 1.0e-3}", "{}")
    assert faults_of(tmp_path, text + "extra: 1\n") == [
        "prepare.command[6]: unknown placeholder {sead}; did you mean seed? (line 2)",
        "stages.sft.init: no model or earlier stage makes 'strat'; did you mean start? (line 9)",
        'stages.sft.max_tokens: must be a whole number, is "yes" (line 14)',
        "stages.collect.sampling.max_new_tokens: must be at least 1, is 0 (line 20)",
        "stages.collect.sampling.temprature: unknown key; did you mean temperature? (line 20)",
        "stages.reward.optimizer.learning_rate: is required: Peak learning rate. (line 31)",
        "extra: unknown key; known: name, seed, prepare, models, services, retention, supervision, stages "
        "(line 32)",
    ]


CASES: dict[str, tuple[str, str, str]] = {
    "a value out of range": (
        "{learning_rate: 3e-4}",
        "{learning_rate: -1}",
        "stages.sft.optimizer.learning_rate: must be above 0, is -1 (line 15)",
    ),
    "a number as text": (
        "max_tokens: 64",
        'max_tokens: "64"',
        'stages.sft.max_tokens: must be a whole number, is "64" (line 14)',
    ),
    "a fraction for a count": (
        "max_tokens: 64",
        "max_tokens: 6.5",
        "stages.sft.max_tokens: must be a whole number, is 6.5 (line 14)",
    ),
    "a boolean for a count": (
        "max_tokens: 64",
        "max_tokens: true",
        "stages.sft.max_tokens: must be a whole number, is true (line 14)",
    ),
    "not a number": (
        "{learning_rate: 3e-4}",
        "{learning_rate: .nan}",
        "stages.sft.optimizer.learning_rate: must be a finite number, is NaN (line 15)",
    ),
    "an unknown kind": (
        "kind: sft",
        "kind: stf",
        'stages.sft: unknown kind "stf"; did you mean sft? (kinds: pretrain, ',
    ),
    "no kind": ("    kind: sft\n", "", "stages.sft: kind is required, one of pretrain, sft, "),
    "a repeated output": (
        "output: tuned",
        "output: start",
        "stages.sft.output: 'start' is already made by models.start (line 10)",
    ),
    "an artifact of the wrong kind": (
        "comparisons: comparisons",
        "comparisons: tuned",
        "stages.reward.comparisons: needs a comparisons artifact, but stages.sft makes 'tuned' of",
    ),
    "a scorer nobody hosts": (
        "scorer: gold",
        "scorer: gild",
        "stages.collect.label.scorer: the reward service hosts no scorer 'gild'; did you mean gold?",
    ),
    "a scorer that is not trained yet": (
        "scorer: gold",
        "scorer: judge",
        "stages.collect.label.scorer: no model or earlier stage makes 'judge'; known: start, tuned (line 21)",
    ),
    "a scorer that its own stage trains": (
        "    output: judge",
        "    output: judge\n    agreement_scorer: judge",
        "stages.reward.agreement_scorer: no model or earlier stage makes 'judge'",
    ),
    "a learned scorer that nothing makes": (
        "learned: [judge]",
        "learned: [jugde]",
        "services.reward.learned[0]: no model or stage makes 'jugde'; did you mean judge? (line 5)",
    ),
    "a scorer given twice": (
        "rules: {gold:",
        'rules: {judge: "world:j", gold:',
        "services.reward: scorer names must differ, given twice: judge (line 5)",
    ),
    "a rule that is no function": ("world:gold", "world.gold", "services.reward.rules.gold: must match"),
    "a missing file": ("{prepared}/data.jsonl", "absent.jsonl", "stages.sft.data: no such file: "),
    "a directory that is no model": (
        "{prepared}/model",
        "/",
        "models.start: holds no config.json, so it is no model: /",
    ),
    "an unknown placeholder": (
        "{prepared}/data",
        "{perpared}/data",
        "stages.sft.data: unknown placeholder {perpared}; did you mean prepared? (line 11)",
    ),
    "nothing that prepares": (
        "prepare: {command",
        "# {command",
        "stages.sft.data: {prepared} is used, but no prepare command makes it (line 11)",
    ),
    "a duplicate key": (
        "    init: start\n",
        "    init: start\n    init: start\n",
        "line 10: duplicate key 'init', first given on line 9",
    ),
    "a step smaller than a minibatch": (
        "    output: tuned",
        "    output: tuned\n    rows_per_step: 4",
        "stages.sft: rows_per_step must be at least 8, is 4 (line 7)",
    ),
    "a name that is no directory name": (
        "name: small",
        "name: Small Run",
        'name: must match ^[a-z0-9][a-z0-9_-]{0,62}$, is "Small Run" (line 1)',
    ),
    "a model that nothing uses": (
        'models: {start: "{prepared}/model"}',
        'models: {start: "{prepared}/model", other: "{prepared}/b"}',
        "models.other: no stage uses it (line 3)",
    ),
    "a mapping expected": (
        "optimizer: {learning_rate: 3e-4}",
        "optimizer: adam",
        'stages.sft.optimizer: must be a mapping, is "adam" (line 15)',
    ),
}


@pytest.mark.parametrize(("old", "new", "fault"), CASES.values(), ids=CASES.keys())
def test_a_fault_names_path_value_limit_and_line(old: str, new: str, fault: str, tmp_path: Path) -> None:
    found = faults_of(tmp_path, changed(old, new))
    assert any(each.startswith(fault) for each in found), found


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("name: a\n  b: c\n", "line 2, column 4: mapping values are not allowed here"),
        ("name: [a\n", "line 2, column 1: expected ',' or ']'"),
        ("- a\n", "a recipe is a mapping"),
        ("", "a recipe is a mapping"),
        (
            "name: !!python/object:os.system x\n",
            "line 1: tag tag:yaml.org,2002:python/object:os.system is not",
        ),
        ("name: a\x01b\n", "unacceptable character #x0001: special characters are not allowed in"),
        ("seed: !!int abc\n", "line 1: 'abc' is no number"),
        ("seed: !!float abc\n", "line 1: 'abc' is no number"),
        ("seed: " + "9" * 5000 + "\n", "line 1: '9999"),
        ("seed: " + "[" * 3000 + "\n", "lists or mappings are nested too deeply"),
        ("name: &a [*a]\n", "line 1: an alias may not point to what contains it"),
        ("name: a\nstages: 3\n", "stages: must be a mapping, is 3 (line 2)"),
        ("name: a\nstages: {}\n", "stages: "),
        ("name: a\nstages: {x: 3}\n", "stages.x: "),
        ("name: a\nstages:\n  x: {kind: [1]}\n", "stages.x: unknown kind [1]"),
    ],
)
def test_what_is_no_recipe_is_told_and_never_a_traceback(text: str, fault: str, tmp_path: Path) -> None:
    found = faults_of(tmp_path, text)
    assert any(each.startswith(fault) for each in found), found


def test_a_file_that_is_missing_or_not_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read: No such file"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"name: \xff")
    with pytest.raises(RecipeError, match="is not UTF-8 text: .* at byte 6"):
        load_recipe(tmp_path / "bytes.yaml")


def test_overrides_replace_values_and_their_faults_say_so(tmp_path: Path) -> None:
    path = written(tmp_path)
    recipe = load_recipe(path, ["stages.sft.optimizer.beta2=0.95", "services.trainer.threads=2", "seed=7"])
    assert recipe.stages["sft"].optimizer.beta2 == 0.95  # type: ignore[union-attr]
    assert recipe.services.trainer.threads == 2 and recipe.seed == 7
    found = faults_of(
        tmp_path, SMALL, ["stages.sft.epochs=0", "rounds", "name.first=x", "seed=[", "stages.sft.x=1"]
    )
    assert found == [
        "override 'rounds': must be dotted.path=value",
        "override 'name.first=x': name is no mapping",
        "override 'seed=[': line 1, column 2: expected the node content, but found '<stream end>'",
        "stages.sft.epochs: must be at least 1, is 0 (override)",
        "stages.sft.x: unknown key (override)",
    ]


def test_numbers_are_read_as_people_write_them(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, changed("name: small", "name: no")))
    assert recipe.name == "no", "YAML 1.1 would read false"
    assert recipe.stages["sft"].optimizer.learning_rate == 3e-4, "YAML 1.1 would read text"  # type: ignore[union-attr]


def test_the_digest_is_of_what_decides_the_result(tmp_path: Path) -> None:
    path = written(tmp_path)
    digest = load_recipe(path, run_dir=tmp_path / "a").sha256
    assert load_recipe(path, run_dir=tmp_path / "b").sha256 == digest, "a run may be moved"
    assert load_recipe(path, ["services.policy.addresses=[far:1]"]).sha256 == digest, (
        "and be served elsewhere"
    )
    assert load_recipe(path, ["stages.sft.epochs=1"]).sha256 == digest, (
        "a default written out changes nothing"
    )
    assert load_recipe(path, ["stages.sft.epochs=2"]).sha256 != digest
    assert load_recipe(path, ["services.trainer.threads=2"]).sha256 != digest, "threads change bits"
    assert load_recipe(path, seed=1).sha256 != digest


def test_the_order_of_stages_changes_the_digest_and_that_of_keys_does_not(tmp_path: Path) -> None:
    raw: dict[str, Any] = load_recipe(written(tmp_path)).declared
    stages = raw["stages"]
    raw["stages"] = {"first": {**stages["sft"], "output": "a"}, "second": {**stages["sft"], "output": "b"}}
    raw["services"] = {}
    swapped = {**raw, "stages": dict(reversed(raw["stages"].items()))}
    shuffled = dict(reversed(raw.items()))
    digests = [load_recipe(written(tmp_path, json.dumps(each))).sha256 for each in (raw, shuffled, swapped)]
    assert digests[0] == digests[1] != digests[2]


def test_the_declared_recipe_written_as_json_is_the_same_recipe(tmp_path: Path) -> None:
    recipe = load_recipe(HELPDESK, ["stages.ppo.rounds=3"], seed=2, run_dir=tmp_path)
    again = load_recipe(written(tmp_path, json.dumps(recipe.declared)), run_dir=tmp_path)
    assert again == recipe and again.sha256 == recipe.sha256


def test_what_the_prepare_command_did_not_write_is_listed_at_once(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path), run_dir=tmp_path)
    (tmp_path / "prepared" / "model").mkdir(parents=True)
    (tmp_path / "prepared" / "data.jsonl").touch()
    with pytest.raises(RecipeError) as caught:
        recipe.require_inputs()
    assert caught.value.faults == [
        f"models.start: holds no config.json, so it is no model: {tmp_path}/prepared/model",
        f"stages.collect.prompts: no such file: {tmp_path}/prepared/prompts.jsonl",
    ]
    (tmp_path / "prepared" / "model" / "config.json").touch()
    (tmp_path / "prepared" / "prompts.jsonl").touch()
    recipe.require_inputs()


def test_a_recipe_needs_only_the_services_that_its_stages_call(tmp_path: Path) -> None:
    assert load_recipe(HELPDESK).needed_services == {"policy", "reference", "reward", "trainer"}
    raw = load_recipe(written(tmp_path)).declared
    raw["stages"].pop("collect"), raw["stages"].pop("reward"), raw.pop("services")
    assert load_recipe(written(tmp_path, json.dumps(raw))).needed_services == {"trainer"}


def test_gold_needs_prompts_and_a_dual_clip_lies_above_one(tmp_path: Path) -> None:
    overrides = ["stages.ppo.gold_prompts=null", "stages.ppo.algorithm.dual_clip=0.5", "stages.ppo.rounds=3"]
    with pytest.raises(RecipeError) as caught:
        load_recipe(HELPDESK, overrides[1:])
    assert caught.value.faults == [
        "stages.ppo.algorithm.dual_clip: must be 0 (off) or above 1, is 0.5 (override)"
    ]
    with pytest.raises(RecipeError, match="stages.ppo: gold_prompts is required where gold_scorer is given"):
        load_recipe(HELPDESK, overrides[:1])
    with pytest.raises(RecipeError, match="stages.ppo.algorithm: kl_budget_soft must be at most 2, is 3"):
        load_recipe(HELPDESK, [f"stages.ppo.algorithm.kl_budget_{each}" for each in ("soft=3", "hard=2")])


def proto_fields(message: Any) -> set[str]:
    return {field.name for field in message.DESCRIPTOR.fields}


def test_settings_that_travel_carry_the_names_of_the_wire() -> None:
    assert set(OptimizerSettings.model_fields) == proto_fields(trainer_pb2.OptimizerSettings)
    assert set(PpoAlgorithm.model_fields) == proto_fields(trainer_pb2.PpoSettings) - {"total_rounds"}
    found = proto_fields(trainer_pb2.PreferenceSettings) - {"total_updates"}
    assert set(PreferenceAlgorithm.model_fields) == found
    assert set(SamplingSettings.model_fields) == proto_fields(types_pb2.SamplingParameters) - {"seed"}
    assert proto_fields(trainer_pb2.SftSettings) - {"total_updates"} <= set(SftStage.model_fields)
    assert proto_fields(trainer_pb2.RewardModelSettings) - {"total_updates"} <= set(RewardStage.model_fields)


def test_every_setting_has_a_sentence() -> None:
    bare, pending = [], [Recipe, *STAGE_KINDS.values()]
    seen: set[type[BaseModel]] = set()
    while pending:
        model = pending.pop()
        seen.add(model)
        for name, field in model.model_fields.items():
            if name != "kind" and not (field.description or "").endswith("."):
                bare.append(f"{model.__name__}.{name}")
            inner = field.annotation
            if isinstance(inner, type) and issubclass(inner, BaseModel) and inner not in seen:
                pending.append(inner)
    assert bare == [] and {PpoAlgorithm, PreferenceAlgorithm} <= seen
