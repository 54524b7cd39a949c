"""Settings: one declaration, every fault at once, exit code 2."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from services.settings import REQUIRED, ServerSettings, above, directory, parse_settings, setting


@dataclass(frozen=True, kw_only=True)
class ExampleSettings(ServerSettings):
    """An example."""

    model: Path = setting(REQUIRED, "A model directory.", parse=directory)
    rules: tuple[str, ...] = setting((), "A rule; 100% repeatable.", flag="--rule", repeated=True)
    ratio: float = setting(0.5, "A number.", parse=above(0, float))

    def faults(self) -> list[str]:
        return ["--ratio: must be below the number of rules"] if self.ratio > len(self.rules) else []


def faults_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    with pytest.raises(SystemExit) as ended:
        parse_settings(ExampleSettings, "example", arguments)
    assert ended.value.code == 2
    first, *faults = capsys.readouterr().err.splitlines()
    assert first == f"example: {len(faults)} setting(s) cannot be used:"
    return [fault.strip() for fault in faults]


def test_flags_become_typed_settings(tmp_path: Path):
    given = ["--model", str(tmp_path), "--rule", "a", "--rule", "b", "--threads=3", "--reflection"]
    settings = parse_settings(ExampleSettings, "example", given)
    assert (settings.model, settings.rules, settings.threads) == (tmp_path, ("a", "b"), 3)
    assert (settings.reflection, settings.until_stdin_closes, settings.ratio) == (True, False, 0.5)
    assert settings.max_message_bytes == 64 * 1024 * 1024


def test_every_fault_is_told_at_once(capsys: pytest.CaptureFixture[str]):
    given = [
        "--threads",
        "none",
        "--address",
        "here",
        "--grace",
        "-1",
        "--log-format",
        "yaml",
        "--bogus",
        "--rule",
    ]
    faults = faults_of(given, capsys)
    flags = [fault.partition(":")[0] for fault in faults]
    expected = {"--threads", "--address", "--grace", "--log-format", "--bogus", "--rule", "--model"}
    assert set(flags) == expected and len(flags) == len(expected)
    assert "--model: is required" in faults
    assert "--rule: needs a value" in faults
    assert "--threads: must be a number, not 'none'" in faults


def test_faults_between_settings_are_told_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert faults_of(["--model", str(tmp_path)], capsys) == ["--ratio: must be below the number of rules"]


@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_numbers_have_to_be_finite(bad: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    given = ["--model", str(tmp_path), "--rule", "a", "--grace", bad]
    assert faults_of(given, capsys) == [f"--grace: must be a finite number above 0, not {bad}"]


@pytest.mark.parametrize("bad", ["localhost", ":50051", "localhost:", "localhost:70000", "localhost:http"])
def test_an_address_needs_host_and_port(bad: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (fault,) = faults_of(["--model", str(tmp_path), "--rule", "a", "--address", bad], capsys)
    assert fault == f"--address: must be host:port with a port from 0 to 65535, not {bad!r}"


def test_help_tells_every_setting_and_its_default(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        parse_settings(ExampleSettings, "example", ["--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "An example.",
        "--until-stdin-closes",
        "(default: 127.0.0.1:0)",
        "100% repeatable",
        "(required)",
    ):
        assert words in text
