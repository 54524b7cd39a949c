"""The reward service's settings: what cannot be hosted is told at once."""

from pathlib import Path

import pytest

from services.reward.settings import RewardSettings
from services.settings import parse_settings

RULE = "tests.reward.scripted_rules:count_words"


def parsed(*arguments: str) -> RewardSettings:
    return parse_settings(RewardSettings, "reward", arguments)


def faults_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    with pytest.raises(SystemExit) as ended:
        parsed(*arguments)
    assert ended.value.code == 2
    return [line.strip() for line in capsys.readouterr().err.splitlines()[1:]]


def test_scorers_are_named_on_the_command_line(tmp_path: Path):
    settings = parsed(
        *("--rule", f"words={RULE}", "--learned", "waits", "--learned", f"plain={tmp_path}"),
        *("--learned", "follows", "--follow", "follows=runs/models/reward"),
    )
    assert settings.rules == (("words", RULE),)
    assert settings.learned == (("waits", None), ("plain", tmp_path), ("follows", None))
    assert settings.follow == (("follows", Path("runs/models/reward")),)


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        ("words", "--rule: must be NAME=VALUE, not 'words'"),
        ("words=score", "--rule: must be module:function, not 'score'"),
        ("words=no.such:score", "--rule: module 'no.such' cannot be imported (No module named 'no')"),
        ("words=math:pi", "--rule: module 'math' has no function 'pi'"),
    ],
)
def test_a_rule_that_does_not_exist_is_told(capsys: pytest.CaptureFixture[str], rule: str, fault: str):
    assert faults_of(capsys, "--rule", rule) == [fault]


def test_what_contradicts_itself_is_told_all_at_once(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    twice = ("--rule", f"a={RULE}", "--learned", "a", "--learned", f"b={tmp_path}")
    assert faults_of(capsys, *twice, "--follow", "b=models/b", "--follow", "c=models/c") == [
        "--learned, --rule, --combined: 'a' is given twice",
        "--follow: no --learned c",
        "--learned, --follow: give 'b' one source of models",
    ]
    assert faults_of(capsys) == ["--learned, --rule: give at least one scorer"]
    missing = tmp_path / "none"
    assert faults_of(capsys, "--learned", f"a={missing}") == [
        f"--learned: must be a directory, and there is none at '{missing}'"
    ]


def test_a_combined_scorer_is_made_of_scorers_before_it(capsys: pytest.CaptureFixture[str]):
    rules = ("--rule", f"a={RULE}", "--rule", f"b={RULE}")
    settings = parsed(*rules, "--combined", "both=mean:a,b", "--combined", "half=weights:both*0.5")
    assert [(name, made.parts) for name, made in settings.combined] == [
        ("both", ("a", "b")),
        ("half", ("both",)),
    ]
    itself = ("--combined", "both=mean:a,later", "--combined", "later=mean:a,b", "--combined", "b=mean:a,b")
    assert faults_of(capsys, *rules, *itself) == [
        "--combined both: no scorer 'later' before it",
        "--learned, --rule, --combined: 'b' is given twice",
    ]
