"""evaluate from its words to its report: real services in this process, tiny models, a scripted judge."""

import argparse
import asyncio
import errno
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.__main__ import main, parser
from orchestrator.drive import drive, recorded_recipe
from orchestrator.evaluation.question import evaluation
from orchestrator.evaluation.subjects import EvaluationError
from orchestrator.ledger import Ledger
from orchestrator.progress import PlainProgress
from orchestrator.recipe_retention import Retention
from orchestrator.report import write_report
from orchestrator.retention import Retainer
from orchestrator.run import RunError
from orchestrator.summary import summarise
from services.weights import verify
from tests.judge.hosting import CONSTITUTION, judge_service, write_constitution
from tests.judge.scripted_endpoint import Reply, endpoint, logs, says, slots
from tests.model_services import policy_service, reference_service
from tests.orchestrator.written_run import RunWriter
from tests.reward.hosting import reward_service
from tests.tiny_models import write_tiny_model

PROMPTS = 12
WORDS, GOLD = "tests.reward.scripted_rules:count_words", "tests.evaluation.rules:without_w5"


def prefers_the_longer(told: str, before: int) -> Reply:
    """Every third question is answered with what is no option; answers are worth 7."""
    if "(A)" not in told:
        return says("7", logs(**{"7": 0.9, "8": 0.05}))
    first, second = slots(told)
    if "w7" in first + second:
        return says("who knows")
    longer = "A" if len(first) > len(second) else "B"
    return says(longer, logs(A=0.8, B=0.1) if longer == "A" else logs(A=0.1, B=0.8))


def words_of(tmp_path: Path, *more: str) -> list[str]:
    """The command line for two tiny models."""
    prompts = tmp_path / "prompts.jsonl"
    asked = [[{"role": "user", "content": f"w{i} w2"}] for i in range(PROMPTS)]
    rows = [{"prompt_id": f"p{i}", "messages": messages} for i, messages in enumerate(asked)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, seed in (("one", 1), ("two", 2)):
        if not (tmp_path / name).exists():
            write_tiny_model(tmp_path / name, seed=seed)
    return [
        *("evaluate", "--runs", str(tmp_path / "runs")),
        *("--before", str(tmp_path / "one"), "--after", str(tmp_path / "two"), "--prompts", str(prompts)),
        *("--max-new-tokens", "8", "--diversity-samples", "3"),
        *("--rule", f"gold={GOLD}", "--rule", f"words={WORDS}"),
        *("--gold", "gold", "--proxy", "words", *more),
    ]  # fmt: skip


@asynccontextmanager
async def services(tmp_path: Path) -> AsyncIterator[list[str]]:
    """Addresses of real services, as words of the command."""
    async with AsyncExitStack() as stack:
        served = stack.enter_context(endpoint(prefers_the_longer))
        rules = (("gold", GOLD), ("words", WORDS))
        opened = {
            "policy": await stack.enter_async_context(policy_service(model=tmp_path / "one")),
            "reference": await stack.enter_async_context(reference_service(model=tmp_path / "one")),
            "reward": await stack.enter_async_context(reward_service(rules=rules, learned=())),
            "judge": await stack.enter_async_context(judge_service(write_constitution(tmp_path), served)),
        }
        yield [w for name, (_, server) in opened.items() for w in (f"--{name}-address", server.address)]


async def begun(words: list[str]) -> tuple[Path, Ledger]:
    """As the command begins it: in a thread without an event loop, while the services answer in this one."""
    return await asyncio.to_thread(evaluation, parser().parse_args(words))


async def evaluated(words: list[str]) -> tuple[Path, dict[str, Any]]:
    """Directory and report of an evaluation that was driven to its end."""
    directory, ledger = await begun(words)
    if ledger.info()["status"] != "finished":
        assert await drive(directory, ledger, PlainProgress(sys.stderr))
    report = summarise(ledger)
    write_report(report, directory)
    return directory, report


async def test_two_directories_through_services_at_addresses_with_all_that_can_be_measured(
    tmp_path: Path,
) -> None:
    asked = ("--probes", "leakage", "--probes", "over-refusal", "--best-of-n", "4", "--probe-judge")
    words = words_of(tmp_path, *asked)
    async with services(tmp_path) as addresses:
        directory, report = await evaluated([*words, *addresses])
        again, _ = await evaluated([*words, *addresses])
    assert again == directory
    found = report["evaluation"]
    assert (found["before"], found["after"], found["prompts"]) == ("one", "two", PROMPTS)
    pairs = found["pairs"]
    # The gold rule gives no score to a text with w5: such a pair counts nowhere and is counted.
    excluded = pairs["gold"]["excluded"]
    assert 0 < excluded < PROMPTS
    for role in ("gold", "proxy", "judge"):
        counted = pairs[role]["wins"] + pairs[role]["losses"] + pairs[role]["ties"]
        assert counted == PROMPTS - pairs[role]["excluded"]
    assert pairs["proxy"]["excluded"] == 0
    unparsable = pairs["judge"]["abstentions"].get("unparsable", 0)
    assert unparsable > 0 and pairs["judge"]["excluded"] >= unparsable
    for principles in found["principles"].values():
        assert set(principles) - {"unread"} == {"honest", "kind"}  # an empty answer is read by none
        assert principles["kind"]["mean"] == pytest.approx(7.05, abs=0.01)
    assert found["diversity"]["two"]["samples"] == 3
    curve = found["best_of_n"]
    assert [each["n"] for each in curve["points"]] == [1, 2, 4] and curve["excluded"] > 0
    proxies = [each["proxy"] for each in curve["points"][:2]]
    assert proxies[0] < proxies[1], "the proxy of the best rises with n"
    assert set(found["probes"]["categories"]) == {"leakage", "over-refusal"}
    for category in found["probes"]["categories"].values():
        assert set(category["models"]) == {"one", "two"}
    page = (directory / "report.html").read_text()
    for title in ("How often two beats one", "scores by principle", "Probes", "Best of n", "diversity"):
        assert title in page
    assert 'src="http' not in page and (directory / "probe-answers.jsonl").is_file()


async def test_a_stopped_evaluation_goes_on_and_a_changed_question_is_another(tmp_path: Path) -> None:
    words = words_of(tmp_path, "--diversity-samples", "0", "--reference", "none")
    async with services(tmp_path) as addresses:
        first, ledger = evaluation(parser().parse_args([*words, *addresses[:6]]))
        task = asyncio.create_task(drive(first, ledger, PlainProgress(sys.stderr)))
        while ledger.phase("assess", 1, "before") is None:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        kept = ledger.phase("assess", 1, "before")
        directory, report = await evaluated([*words, *addresses[:6]])
        assert directory == first and ledger.phase("assess", 1, "before") == kept
        assert "judge" not in report["evaluation"]["pairs"] and report["evaluation"]["probes"] == {}
        assert report["evaluation"]["sequence_kl"] == {} and "no sequence KL" in str(report["notes"])
        other, _ = await evaluated([*words, *addresses[:6], "--seed", "1"])
    assert other != first


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--prompts", "nowhere.jsonl"], "--prompts: no such file: nowhere.jsonl"),
        (["--after", "nowhere"], "'nowhere' is neither a directory with a config.json nor hf://OWNER/NAME"),
        (["--after", "{one}"], "are the same model"),
        (["--after", "{copy}"], "are the same model"),
        (["--gold", "nobody"], "no scorer 'nobody' is known (known: gold, words)"),
        (["--rule", "gold"], "--rule 'gold': must be NAME=module:function"),
        (["--probes", "nothing"], "no such file: nothing; shipped are jailbreak-multi-turn"),
        (["--probes", "{bad}"], "line 1: expects: must be one of"),
        (["--proxy", "none", "--best-of-n", "4"], "--best-of-n needs a proxy"),
        (["--judge"], "the judge needs --judge-address"),
        (["--judge-model", "{one}", "--constitution", "no.yaml"], "--constitution: no such file: no.yaml"),
        (["--probe-judge"], "--probe-judge needs a judge"),
        (["--temperature", "-1"], "stages.assess.sampling.temperature"),
        (["--name", "../x"], "a run's name holds letters"),
    ],
)
def test_a_wrong_word_is_one_clear_line_and_begins_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: list[str], said: str
) -> None:
    (tmp_path / "bad.jsonl").write_text(
        '{"prompt_id": "a", "category": "c", "expects": "no", "text": "w1"}\n'
    )
    words = words_of(tmp_path)
    write_tiny_model(tmp_path / "copy", seed=1)
    places = {name: str(tmp_path / name) for name in ("one", "copy")} | {"bad": str(tmp_path / "bad.jsonl")}
    assert main([*words, *(word.format(**places) for word in change)]) == 1
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert not (tmp_path / "runs").exists()


def test_no_kl_is_asked_for_where_it_would_be_none(tmp_path: Path) -> None:
    words = words_of(tmp_path)
    _, ledger = evaluation(parser().parse_args(words))
    assert ledger.info()["recipe"]["stages"]["assess"]["reference"] == "one"
    tokenizer = tmp_path / "two" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")
    _, ledger = evaluation(parser().parse_args(words))
    assert ledger.info()["recipe"]["stages"]["assess"]["reference"] is None


def test_versions_of_a_run_are_named_and_wrong_ones_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = RunWriter(tmp_path).write()
    here = ["--runs", str(tmp_path), "--prompts", str(tmp_path / "prompts.jsonl"), "--proxy", "rule"]
    for words, said in (
        (["nobody"], "holds no run"),
        (["run"], "--before is needed: the run has no evaluate stage that says it"),
        (
            ["run", "--before", "sft", "--after", "policy@9"],
            "no version policy@9: policy has 1 to 4",
        ),
        (["run", "--before", "policy", "--after", "policy@4"], "are the same model"),
        (
            ["run", "--before", "sft", "--after", "polisy"],
            "neither a model of run run (policy, sft, start)",
        ),
    ):
        assert main(["evaluate", *words, *here]) == 1
        assert said in capsys.readouterr().err
    options = parser().parse_args(["evaluate", "run", "--before", "sft", "--after", "policy", *here])
    directory, ledger = evaluation(options)
    assert directory.parent == writer.directory / "evaluations" and directory.name.startswith("sft-")
    recipe = ledger.info()["recipe"]
    assert recipe["stages"]["assess"]["after"] == "policy-4" and recipe["seed"] == 5
    assert recipe["models"]["policy-4"].endswith("policy/v000004")


def test_judges_in_rotation_judge_an_evaluation_too_and_one_that_is_named_judges_alone(
    tmp_path: Path,
) -> None:
    writer = RunWriter(tmp_path).write()
    for name in ("one", "two", "other"):
        write_tiny_model(tmp_path / name)
    path = writer.directory / "recipe.yaml"
    raw = json.loads(path.read_text())
    raw["models"] |= {"one": str(tmp_path / "one"), "two": str(tmp_path / "two")}
    judge = {"constitution": str(write_constitution(tmp_path)), "model": "one", "rotation": ["two"]}
    raw["services"]["judge"] = {**raw["services"].get("judge", {}), **judge}
    path.write_text(json.dumps(raw))
    here = ["evaluate", "run", "--before", "sft", "--after", "policy", "--runs", str(tmp_path)]
    here += ["--prompts", str(tmp_path / "prompts.jsonl"), "--proxy", "rule", "--reference", "none"]

    def judges(*words: str) -> tuple[Any, Any, set[str]]:
        _, ledger = evaluation(parser().parse_args([*here, *words]))
        recipe = ledger.info()["recipe"]
        asked = recipe["services"]["judge"]
        return asked["model"], asked["rotation"], set(recipe["models"]) & {"one", "two", "other"}

    assert judges("--judge") == ("one", ["two"], {"one", "two"})
    assert judges("--judge-model", str(tmp_path / "other")) == ("other", [], {"other"})
    endpoint_words = ("--judge-endpoint", "http://127.0.0.1:9/v1", "--judge-endpoint-model", "m")
    assert judges(*endpoint_words) == (None, [], set())


def test_models_of_one_name_in_different_places_stay_apart(tmp_path: Path) -> None:
    places = [tmp_path / name / "final" for name in ("sft", "judge", "reference")]
    for seed, place in enumerate([*places, tmp_path / "two"]):
        write_tiny_model(place, seed=seed)
    words = words_of(tmp_path, "--judge-model", str(places[1]), "--reference", str(places[2]))
    words[words.index("--before") + 1] = str(places[0])
    constitution = ("--constitution", str(write_constitution(tmp_path)))
    sets = [tmp_path / name / "set.jsonl" for name in ("a", "b")]
    for path in sets:
        path.parent.mkdir()
        probe = {"prompt_id": "p", "category": path.parent.name, "expects": "answer", "text": "Hello?"}
        path.write_text(json.dumps(probe) + "\n")
    probes = [word for path in sets for word in ("--probes", str(path))]
    _, ledger = evaluation(parser().parse_args([*words, *constitution, *probes]))
    recipe = ledger.info()["recipe"]
    models, stage = recipe["models"], recipe["stages"]["assess"]
    assert models[stage["before"]] == str(places[0]) and models[stage["reference"]] == str(places[2])
    assert models[recipe["services"]["judge"]["model"]] == str(places[1])
    assert len(set(models.values())) == 4 and sorted(stage["probes"].values()) == sorted(map(str, sets))
    with pytest.raises(EvaluationError, match="a scorer and a model to compare are both called 'final'"):
        scorer = ("--reward-model", f"final={places[1]}", "--proxy", "final")
        evaluation(parser().parse_args([*words, *scorer, *constitution]))


def test_a_model_whose_weights_changed_is_another_question(tmp_path: Path) -> None:
    words = words_of(tmp_path)
    first, _ = evaluation(parser().parse_args(words))
    assert evaluation(parser().parse_args(words))[0] == first
    write_tiny_model(tmp_path / "two", seed=9)
    assert evaluation(parser().parse_args(words))[0] != first


async def test_two_judges_at_addresses_are_two_evaluations(tmp_path: Path) -> None:
    words, other = words_of(tmp_path), tmp_path / "other"
    other.mkdir()
    rewritten = write_constitution(other, CONSTITUTION.replace("kinder", "softer"))
    async with AsyncExitStack() as stack:
        served = stack.enter_context(endpoint(prefers_the_longer))

        async def judge(constitution: Path, **settings: Any) -> str:
            opened = judge_service(constitution, served, **settings)
            return (await stack.enter_async_context(opened))[1].address

        plain = write_constitution(tmp_path)
        first, twin = await judge(plain), await judge(plain)
        others = [await judge(plain, endpoint_model="another"), await judge(rewritten)]
        asked = {
            address: (await begun([*words, "--judge-address", address]))[0] for address in (first, *others)
        }
        assert len(set(asked.values())) == 3
        again, _ = await begun([*words, "--judge-address", twin])
        assert again == asked[first], "the same judge elsewhere is the same question"
        await begun([*words, "--name", "mine", "--judge-address", first])
        await begun([*words, "--name", "mine", "--judge-address", twin])
        with pytest.raises(RunError, match="holds a run of another recipe"):
            await begun([*words, "--name", "mine", "--judge-address", others[0]])
    gone = [(await begun([*words, "--judge-address", address]))[0] for address in (first, twin)]
    assert len({*gone, *asked.values()}) == 5, "whoever does not answer is told by the address"


def a_run_under_way(tmp_path: Path) -> tuple[RunWriter, Retainer]:
    """Seven rounds of twelve, of which retention keeps five versions."""
    run = RunWriter(tmp_path, rounds=12)
    run.supervised()
    run.ledger.begin_stage("ppo", "ppo", 2)
    retainer = Retainer(run.ledger, run.directory, Retention())
    go_on(run, retainer, 1, 7)
    return run, retainer


def go_on(run: RunWriter, retainer: Retainer, first: int, last: int) -> None:
    for number in range(first, last + 1):
        run.round(number)
        retainer.apply("ppo")


def asking(tmp_path: Path, *words: str) -> argparse.Namespace:
    here = ("--runs", str(tmp_path), "--prompts", str(tmp_path / "prompts.jsonl"), "--proxy", "rule")
    return parser().parse_args(["evaluate", "run", *words, *here])


def refused(*_: Any) -> None:
    raise PermissionError(errno.EPERM, "no links here")


@pytest.mark.parametrize("links", [True, False])
def test_versions_of_a_run_under_way_stay_with_the_evaluation_that_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    run, retainer = a_run_under_way(tmp_path)
    if not links:
        monkeypatch.setattr(os, "link", refused)
    asked = asking(tmp_path, "--before", "policy@5", "--after", "policy@7")
    directory, ledger = evaluation(asked)
    files = directory / "models" / "policy" / "v000005" / "model.safetensors"
    assert files.samefile(run.directory / "models" / "policy" / "v000005" / "model.safetensors") == links
    go_on(run, retainer, 8, 12)
    assert not (run.directory / "models" / "policy" / "v000005").exists()
    again, ledger = evaluation(asked)
    assert again == directory
    models = recorded_recipe(directory, ledger).models
    assert set(models) == {"policy-5", "policy-7"}
    for name, place in models.items():
        row = run.ledger.version("policy", int(name.removeprefix("policy-")))
        assert row is not None and verify(Path(place)).sha256 == row["sha256"]
    other, _ = evaluation(asking(tmp_path, "--before", "policy@5", "--after", "policy@12"))
    assert other != directory and verify(other / "models" / "policy" / "v000005")
    with pytest.raises(EvaluationError, match="policy@6 is gone: the run's retention has removed its files"):
        evaluation(asking(tmp_path, "--before", "policy@6", "--after", "policy"))
    assert len(list((run.directory / "evaluations").iterdir())) == 2


def test_a_death_while_versions_are_held_leaves_no_half_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = a_run_under_way(tmp_path)
    asked = asking(tmp_path, "--before", "policy@5", "--after", "policy@7", "--name", "one")
    with monkeypatch.context() as dying:
        dying.setattr(os, "rename", refused)
        dying.setattr(shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(PermissionError):
            evaluation(asked)
    held = run.directory / "evaluations" / "one" / "models" / "policy"
    assert [path.name.partition(".tmp-")[0] for path in held.iterdir()] == ["v000005"]
    _, ledger = evaluation(asked)
    Retainer(ledger, held.parents[1], Retention()).sweep(local_writers=True)
    assert sorted(path.name for path in held.iterdir()) == ["v000005", "v000007"]


def test_a_finished_evaluation_is_shown_when_its_versions_are_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, retainer = a_run_under_way(tmp_path)
    asked = asking(tmp_path, "--before", "policy@5", "--after", "policy@7")
    directory, ledger = evaluation(asked)
    ledger.take_lease()
    ledger.set_run(status="finished")
    go_on(run, retainer, 8, 12)
    shutil.rmtree(directory / "models")
    assert asked.command(asked) == 0
    assert str(directory / "report.html") in capsys.readouterr().out
