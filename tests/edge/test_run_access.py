"""What a run shows of itself to services that run elsewhere, by the environment, and what it keeps."""

from contextlib import AsyncExitStack

import pytest

from orchestrator.access import access_of
from orchestrator.peers import Peers
from orchestrator.processes import LaunchError
from orchestrator.recipe_settings import Services
from tests.model_services import asked, header, location, policy_service, publish_tiny, sampling
from trueline import CallError


def recipe_services(*addresses: str) -> Services:
    return Services.model_validate({"policy": {"addresses": list(addresses)}})


async def test_a_run_loads_and_samples_over_tls_on_two_replicas(
    tmp_path, tokens, root, certificate, monkeypatch
):
    published = publish_tiny(tmp_path / "models")
    edge = {
        "tls_certificate": certificate.certificate,
        "tls_key": certificate.key,
        "tokens": tokens.path,
        "artifact_root": tmp_path / "models",
    }
    async with AsyncExitStack() as stack:
        servers = [(await stack.enter_async_context(policy_service(**edge)))[1] for _ in range(2)]
        addresses = [server.address.replace("127.0.0.1", "localhost") for server in servers]
        monkeypatch.setenv("TRUELINE_CA", str(root.certificate))
        for name, lets in (("read", False), ("all", True)):
            (tmp_path / "token").write_text(tokens.secrets[name])
            monkeypatch.setenv("TRUELINE_TOKEN_FILE", str(tmp_path / "token"))
            access = access_of(recipe_services(*addresses))
            places = {"policy": addresses, "reference": [], "reward": [], "judge": [], "trainer": []}
            async with Peers(places, access=access) as peers:
                if not lets:
                    with pytest.raises(CallError, match="needs scope 'admin'"):
                        await peers.serve_policy(location(published), header("load"))
                    continue
                version = await peers.serve_policy(location(published), header("load"))
                for _ in range(4):
                    reply = await peers.policy.generate(
                        prompts=asked([1, 5]), sampling=sampling(), expected_version=version
                    )
                    assert len(reply.rollouts) == 1


def test_services_of_this_machine_are_shown_nothing(tmp_path, monkeypatch):
    (tmp_path / "token").write_text("tl_secret")
    monkeypatch.setenv("TRUELINE_TOKEN_FILE", str(tmp_path / "token"))
    found = access_of(recipe_services("127.0.0.1:1"))
    assert found["policy"].metadata() and not found["trainer"].metadata()


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"TRUELINE_TOKEN": "tl_secret"}, "over TLS only"),
        ({"TRUELINE_CA": "/nowhere/ca.pem"}, "ca: cannot read"),
        ({"TRUELINE_TLS": "1", "TRUELINE_TOKEN_FILE": "/nowhere/token"}, "token_file: cannot read"),
        ({"TRUELINE_CERTIFICATE": "me.pem"}, "give both or neither"),
    ],
)
def test_what_cannot_work_is_told_before_anything_starts(monkeypatch, variables, said):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LaunchError, match=said) as refused:
        access_of(recipe_services("policy.example:50051"))
    assert "tl_secret" not in str(refused.value)
