"""The judge's settings: what cannot be used is told at once, and no key is."""

import subprocess
import sys
from pathlib import Path

import pytest

from services.judge.settings import JudgeSettings
from services.settings import parse_settings
from tests.judge.hosting import header, honest, judge_service, pairs, write_constitution
from tests.judge.scripted_endpoint import endpoint, says
from trueline import CallError, JudgeClient
from trueline.v1 import types_pb2


def parsed(*arguments: str) -> JudgeSettings:
    return parse_settings(JudgeSettings, "judge", arguments)


def faults_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    with pytest.raises(SystemExit) as ended:
        parsed(*arguments)
    assert ended.value.code == 2
    return [line.strip() for line in capsys.readouterr().err.splitlines()[1:]]


def test_an_endpoint_is_named_with_or_without_the_path(tmp_path: Path):
    constitution = str(write_constitution(tmp_path))
    for url in ("http://judge:8000/v1", "http://judge:8000/v1/", "http://judge:8000/v1/chat/completions"):
        settings = parsed("--constitution", constitution, "--endpoint", url, "--endpoint-model", "m")
        assert settings.endpoint == "http://judge:8000/v1/chat/completions"


def test_faults_of_constitution_and_endpoint_are_told_together(capsys, tmp_path: Path, monkeypatch):
    broken = write_constitution(tmp_path, "name: x\nprinciples: [{name: a}]")
    monkeypatch.setenv("SPLIT_KEY", "sk-one sk-two")
    faults = faults_of(
        capsys,
        *("--constitution", str(broken)),
        *("--endpoint", "https://me:sk-secret@host/v1"),
        *("--api-key-env", "SPLIT_KEY"),
        *("--api-key-file", str(tmp_path / "none")),
        *("--logprobs", "maybe"),
        *("--attempts", "0"),
    )
    assert faults == [
        f"--constitution: {broken}: 1 fault(s): principles[0]: needs at least one of compare, score, "
        "critique, revision",
        "--endpoint: must hold neither user, password nor query; a key comes from --api-key-file",
        "--api-key-file: cannot be read (FileNotFoundError)",
        "--api-key-env: the environment variable 'SPLIT_KEY' holds no key: one line of printable ASCII "
        "without blanks is needed",
        "--logprobs: must be one of auto, require, off, not 'maybe'",
        "--attempts: must be a finite number above 0, not 0",
    ]
    assert not any("sk-" in fault for fault in faults)


def test_two_judges_at_once_and_half_an_endpoint_are_faults(capsys, tmp_path: Path):
    constitution = ("--constitution", str(write_constitution(tmp_path)))
    both = (*constitution, "--endpoint", "http://judge/v1", "--model", str(tmp_path))
    assert faults_of(capsys, *both) == [
        "--model, --endpoint: give a local model or an endpoint",
        "--endpoint, --endpoint-model: give both",
    ]
    assert faults_of(capsys, "--endpoint-model", "m") == ["--constitution: is required"]


def test_the_settings_record_holds_no_key(tmp_path: Path):
    key = tmp_path / "key"
    key.write_text("sk-secret\n", encoding="utf-8")
    settings = parsed("--constitution", str(write_constitution(tmp_path)), "--api-key-file", str(key))
    assert settings.api_key() == "sk-secret"
    assert "sk-secret" not in repr(settings)


async def test_an_endpoint_has_no_weights_and_no_versions_of_ours(tmp_path: Path):
    location = types_pb2.ModelLocation(uri=str(tmp_path))
    with endpoint(lambda told, before: says("A")) as served:
        async with judge_service(write_constitution(tmp_path), served) as (judge, _):
            with pytest.raises(CallError) as refused:
                await judge.load_weights(header=header("r"), location=location)
            assert refused.value.reason == "no_local_model"
            with pytest.raises(CallError) as refused:
                version = types_pb2.ModelVersion(model="judge", number=1, sha256="0")
                await judge.compare(items=pairs(1), principles=honest(), expected_version=version)
            assert refused.value.reason == "wrong_version"


async def test_what_changes_a_replica_goes_to_one_replica():
    async with JudgeClient(["127.0.0.1:1", "127.0.0.1:2"]) as judge:
        with pytest.raises(ValueError, match="reload_constitution goes to one replica"):
            await judge.reload_constitution(header=header("r"))


def test_a_judge_before_an_endpoint_loads_no_torch():
    script = "import sys; import services.judge.service; print('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    told = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": f"{root}:{root / 'protos'}"},
        capture_output=True,
        text=True,
    )
    assert told.stdout == "False\n", told.stderr
