"""TLS and mTLS over the wire, certificates replaced while a server runs, and what may stay plaintext."""

import asyncio
import shutil
import ssl
import urllib.request
from pathlib import Path

import grpc
import pytest

from services.reward.hosting import Rewards
from services.reward.service import RewardServicer
from services.reward.settings import RewardSettings
from services.server import Server, running
from services.settings import ServerSettings, parse_settings
from tests.edge.certificates import Pair, authority, issue
from tests.server.scripted import SERVICE, ScriptedApplication
from trueline import Access, CallError, RewardClient, wait_until_ready
from trueline.channel import open_channel

REWARD = "trueline.v1.RewardService"


def reward(**given):
    settings = RewardSettings(rules=(("length", "tests.edge.rules:length"),), grace=1.0, **given)
    return running(REWARD, lambda host: RewardServicer(Rewards(host, settings)), settings)


def files(pair: Pair) -> dict[str, Path]:
    return {"tls_certificate": pair.certificate, "tls_key": pair.key}


async def score(client: RewardClient) -> float:
    return (await client.score("length", [("p", "abc")])).scores[0].value.raw


async def test_a_client_with_the_root_and_a_token_scores(tokens, root, certificate):
    async with reward(tokens=tokens.path, **files(certificate)) as server:
        access = Access(ca=root.certificate, token=tokens.secrets["score"])
        async with RewardClient(server.address, access=access) as client:
            await wait_until_ready(client, timeout=20)
            assert await score(client) == 3.0
            with pytest.raises(CallError) as refused:
                await client.list_scorers()
            error = refused.value
            assert error.code is grpc.StatusCode.PERMISSION_DENIED and error.reason == "token_scope"
            assert error.info == {"token": "score", "scope": "read"} and not error.retryable


async def test_a_list_of_replicas_is_verified_by_the_first_ones_name(tokens, root, certificate):
    edge = {"tokens": tokens.path, **files(certificate)}
    async with reward(**edge) as one, reward(**edge) as two:
        access = Access(ca=root.certificate, token=tokens.secrets["score"])
        addresses = [one.address.replace("127.0.0.1", "localhost"), two.address]
        async with RewardClient(addresses, access=access) as client:
            await wait_until_ready(client, timeout=20)
            assert [await score(client) for _ in range(4)] == [3.0] * 4
        wrong = Access(ca=root.certificate, token=tokens.secrets["score"], server_name="elsewhere")
        async with RewardClient(addresses, access=wrong, deadline=2.0) as client:
            with pytest.raises(CallError):
                await score(client)


async def test_plaintext_and_strange_roots_get_nowhere(tmp_path, certificate):
    stranger = authority(tmp_path / "strange")
    async with reward(**files(certificate)) as server:
        for access in (Access(), Access(ca=stranger.certificate)):
            async with RewardClient.direct(server.address, access=access, deadline=3.0) as client:
                with pytest.raises(CallError) as refused:
                    await score(client)
                assert refused.value.code.name in ("UNAVAILABLE", "DEADLINE_EXCEEDED")


async def test_mtls_takes_callers_with_a_certificate_only(root, certificate):
    mine = issue(root, "caller")
    async with reward(**files(certificate), tls_client_ca=root.certificate) as server:
        with_one = Access(ca=root.certificate, certificate=mine.certificate, key=mine.key)
        async with RewardClient(server.address, access=with_one) as client:
            assert await score(client) == 3.0
        async with RewardClient.direct(
            server.address, access=Access(ca=root.certificate), deadline=3.0
        ) as client:
            with pytest.raises(CallError):
                await score(client)
        context = ssl.create_default_context(cafile=root.certificate)
        url = f"https://{server.metrics_address}/metrics"
        with pytest.raises(OSError):
            await asyncio.to_thread(urllib.request.urlopen, url, None, 10, context=context)
        context.load_cert_chain(mine.certificate, mine.key)
        await asyncio.to_thread(urllib.request.urlopen, url, None, 10, context=context)


async def test_a_replaced_certificate_is_served_without_a_restart(tmp_path, root, certificate):
    served = Pair(tmp_path / "tls.pem", tmp_path / "tls.key")
    shutil.copy(certificate.certificate, served.certificate)
    shutil.copy(certificate.key, served.key)
    other_root = authority(tmp_path / "new")
    newer = issue(other_root, "newer")
    async with reward(**files(served)) as server:
        async with RewardClient(server.address, access=Access(ca=root.certificate)) as open_before:
            assert await score(open_before) == 3.0
            shutil.copy(newer.certificate, served.certificate)  # its key is not there yet
            assert await can_score(server, root)
            shutil.copy(newer.key, served.key)
            assert await can_score(server, other_root)
            assert not await can_score(server, root)
            assert await score(open_before) == 3.0  # what is open goes on
        context = ssl.create_default_context(cafile=other_root.certificate)
        url = f"https://{server.metrics_address}/metrics"
        await asyncio.to_thread(urllib.request.urlopen, url, None, 10, context=context)


async def can_score(server: Server, root: Pair) -> bool:
    access = Access(ca=root.certificate)
    async with RewardClient.direct(server.address, access=access, deadline=3.0) as client:
        try:
            return await score(client) == 3.0
        except CallError:
            return False


async def test_a_client_takes_its_new_roots_at_the_next_call(tmp_path, root, certificate):
    stranger, trusted = authority(tmp_path / "strange"), tmp_path / "ca.pem"
    shutil.copy(stranger.certificate, trusted)
    async with reward(**files(certificate)) as server:
        async with RewardClient.direct(server.address, access=Access(ca=trusted), deadline=3.0) as client:
            with pytest.raises(CallError):
                await score(client)
            shutil.copy(root.certificate, trusted)
            assert await score(client) == 3.0


async def test_a_client_reads_its_token_at_every_call(tmp_path, tokens):
    held = tmp_path / "token"
    held.write_text(tokens.secrets["ended"] + "\n")
    async with reward(tokens=tokens.path) as server:
        async with RewardClient(server.address, access=Access(token_file=held)) as client:
            with pytest.raises(CallError, match="ended"):
                await score(client)
            held.write_text(tokens.secrets["score"] + "\n")
            assert await score(client) == 3.0


async def test_the_health_port_speaks_plaintext_and_nothing_but_health(tokens, certificate):
    edge = {"tokens": tokens.path, "health_address": "127.0.0.1:0", **files(certificate)}
    async with reward(**edge) as server:
        await server.started()
        async with RewardClient.direct(server.health_address, access=Access()) as client:
            assert await client.health("") == "SERVING"
            assert await client.health(REWARD) == "SERVING"
            with pytest.raises(CallError) as refused:
                await score(client)
            assert refused.value.code is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("where", ["--address=0.0.0.0:0", "--metrics-address=0.0.0.0:0", "--address=[::]:0"])
def test_an_open_port_without_tls_and_tokens_does_not_start(where, capsys, tokens, certificate):
    with pytest.raises(SystemExit):
        parse_settings(ServerSettings, "example", [where])
    said = capsys.readouterr().err
    assert "neither encrypted nor authorised" in said and "--tls-certificate and --tokens" in said
    with pytest.raises(SystemExit):
        parse_settings(ServerSettings, "example", [where, f"--tokens={tokens.path}"])
    assert "give --tls-certificate, bind" in capsys.readouterr().err
    edge = [f"--tls-certificate={certificate.certificate}", f"--tls-key={certificate.key}"]
    parse_settings(ServerSettings, "example", [where, f"--tokens={tokens.path}", *edge])
    parse_settings(ServerSettings, "example", [where, "--insecure-network"])
    with pytest.raises(ValueError, match="neither encrypted"):
        Server(SERVICE, ScriptedApplication, ServerSettings(address="0.0.0.0:0"))


def test_certificates_that_do_not_fit_are_told_at_the_door(capsys, root, certificate, tmp_path):
    (tmp_path / "tokens").write_text("nonsense\n")
    flags = [f"--tls-certificate={certificate.certificate}", f"--tls-key={root.key}"]
    with pytest.raises(SystemExit):
        parse_settings(ServerSettings, "example", [*flags, f"--tokens={tmp_path}/tokens"])
    said = capsys.readouterr().err
    assert "--tls-certificate: " in said and "--tokens: " in said
    with pytest.raises(SystemExit):
        parse_settings(ServerSettings, "example", flags[:1])
    assert "give both or neither" in capsys.readouterr().err


@pytest.mark.parametrize(
    "target", ["10.0.0.7:50053", "reward:50053", "dns:///reward:50053", "localhost.evil:1"]
)
def test_a_token_is_never_sent_over_plaintext(target, tokens):
    for addresses in (target, ["127.0.0.1:50053", target]):
        with pytest.raises(ValueError, match="over TLS only"):
            open_channel(addresses, RewardClient.SERVICE, health=True, access=Access(token="tl_x"))


def test_access_comes_from_the_environment_and_what_is_given_goes_before(tmp_path):
    (tmp_path / "token").write_text("tl_file\n")
    variables = {"TRUELINE_CA": "ca.pem", "TRUELINE_TOKEN": "tl_variable", "TRUELINE_TLS": "1"}
    found = Access.from_environment(variables)
    assert (found.ca, found.encrypts) == ("ca.pem", True)
    assert found.metadata() == [("authorization", "Bearer tl_variable")]
    given = Access.from_environment(variables, token_file=tmp_path / "token", ca=None)
    assert given.metadata() == [("authorization", "Bearer tl_file")] and given.ca == "ca.pem"
    assert "tl_variable" not in repr(found)
    with pytest.raises(ValueError, match="both or neither"):
        Access(certificate="a")
    with pytest.raises(ValueError, match="cannot read"):
        Access(token_file=tmp_path / "none").metadata()
