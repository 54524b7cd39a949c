"""Paths from callers stay below the artifact root: links, dots and hub names do not lead out."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from services.artifact_root import ANYWHERE, ArtifactRoot, artifact_root, resolve
from services.errors import FieldError
from tests.model_services import header, policy_service, publish_tiny, version_pb
from tests.trainer.wiring import begin_request, plain, trainer
from tests.trainer.wiring import header as step_header
from trueline import CallError
from trueline.v1 import trainer_pb2, types_pb2


def resolved(root: ArtifactRoot, uri: str) -> Path:
    token = artifact_root.set(root)
    try:
        return resolve(uri, "location.uri", "must be a path")
    finally:
        artifact_root.reset(token)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    inside = tmp_path / "artifacts"
    (inside / "models/policy/v1").mkdir(parents=True)
    (tmp_path / "artifacts-beside").mkdir()
    (tmp_path / "secret").write_text("secret")
    (inside / "link").symlink_to(tmp_path / "secret")
    (inside / "models/leak").mkdir()
    (inside / "models/leak/model.safetensors").symlink_to(tmp_path / "secret")
    (inside / "models/blob").write_text("x")
    (inside / "models/policy/v1/config.json").symlink_to("../../blob")
    return inside


def test_paths_inside_pass_those_to_come_and_links_that_stay_too(root):
    limits = ArtifactRoot(root)
    for path in ("models/policy/v1", "checkpoints/not/yet", "models/../models/policy"):
        assert resolved(limits, f"{root}/{path}") == (root / path).resolve()
    assert resolved(ANYWHERE, "/etc/passwd") == Path("/etc/passwd")


@pytest.mark.parametrize(
    "path",
    [
        "..",
        "../secret",
        "../artifacts-beside",
        "link",
        "models/leak",
        "models",
        "/etc/passwd",
        "%2e%2e/secret",
    ],
)
def test_paths_that_lead_out_are_refused(root, path):
    uri = path if path.startswith("/") else f"file://{root}/{path}"
    with pytest.raises(FieldError) as refused:
        resolved(ArtifactRoot(root), uri)
    assert refused.value.reason == "outside_root" and "location.uri" in str(refused.value)


def test_hub_names_are_refused_unless_they_are_allowed(root):
    with pytest.raises(FieldError, match="hub names"):
        resolved(ArtifactRoot(root), "hf://gpt2")
    assert resolved(ArtifactRoot(root, hub_names=True), "hf://gpt2").parts[0] == "hf:"
    with pytest.raises(FieldError, match="must be a path"):
        resolved(ArtifactRoot(root), "relative")


async def test_a_service_with_a_root_loads_what_lies_in_it_and_nothing_else(tmp_path):
    inside, outside = tmp_path / "artifacts", tmp_path / "elsewhere"
    good, other = publish_tiny(inside), publish_tiny(outside)
    async with policy_service(artifact_root=inside) as (client, _):
        where = types_pb2.ModelLocation(version=version_pb(good), uri=str(good.path))
        assert (await client.load_weights(header=header("1"), location=where)).version == version_pb(good)
        for uri in (str(other.path), "hf://gpt2", f"{inside}/../elsewhere/policy/v000001"):
            with pytest.raises(CallError) as refused:
                await client.load_weights(header=header("2"), location=types_pb2.ModelLocation(uri=uri))
            assert refused.value.reason == "outside_root"
        assert (await client.get_policy()).version == version_pb(good)


def trainer_calls(inside: Path, elsewhere: Path) -> dict[str, tuple[str, Any]]:
    """What a trainer is asked, and for each field that names a place: one that leads out."""
    out = str(elsewhere)
    batch = elsewhere / "batch"
    batch.write_bytes(trainer_pb2.PpoBatch().SerializeToString())
    sha256 = hashlib.sha256(batch.read_bytes()).hexdigest()
    trained = trainer_pb2.StageModel(role=trainer_pb2.MODEL_ROLE_TRAINED, location=plain(elsewhere))
    artifact = types_pb2.Artifact(uri=str(batch), sha256=sha256)
    checkpoint = trainer_pb2.CheckpointLocation(uri=out, sha256=sha256, step=1)
    at = {"header": step_header("outside")}
    return {
        "models[0].location.uri": ("begin_stage", begin_request(inside, "ppo", models=[trained])),
        "models_uri": ("begin_stage", begin_request(inside, "ppo", models_uri=out)),
        "checkpoints_uri": ("begin_stage", begin_request(inside, "ppo", checkpoints_uri=out)),
        "artifact.uri": ("ppo_step", trainer_pb2.PpoStepRequest(artifact=artifact, **at)),
        "checkpoint.uri": ("restore", trainer_pb2.RestoreRequest(checkpoint=checkpoint, **at)),
        "good.uri": ("roll_back", trainer_pb2.RollBackRequest(good=plain(elsewhere), number=3, **at)),
    }


async def test_a_trainer_with_a_root_reads_and_writes_nowhere_else(tmp_path):
    inside, elsewhere = tmp_path / "artifacts", tmp_path / "elsewhere"
    inside.mkdir()
    elsewhere.mkdir()
    async with trainer(artifact_root=inside) as client:
        for field, (call, request) in trainer_calls(inside, elsewhere).items():
            with pytest.raises(CallError) as refused:
                await getattr(client, call)(request)
            assert refused.value.code.name == "INVALID_ARGUMENT"
            assert f"{field}: leads out of the artifact root" in refused.value.message
        assert list(elsewhere.iterdir()) == [elsewhere / "batch"]
        await client.begin_stage(begin_request(inside, "ppo"))
