"""Another system: a clean environment with the wheel alone scores a batch, at both ends of its ranges."""

import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from services.reward.hosting import Rewards
from services.reward.service import RewardServicer
from services.reward.settings import RewardSettings
from services.server import running
from tests.edge.certificates import authority, issue
from tests.wire.scripted_services import ScriptedReward, serve
from trueline.tokens import new_token

ROOT = Path(__file__).resolve().parents[2]

# Two replicas and a refusal that is tried again (old grpc must understand the service config), and an error.
LONGER_SCRIPT = """
import asyncio, sys, trueline
async def main():
    async with trueline.RewardClient(sys.argv[1:]) as reward:
        await trueline.wait_until_ready(reward, timeout=20)
        scores = [(await reward.score("length", [("p", "abc")])).scores[0].value.raw for _ in range(8)]
        print(scores == [3.0] * 8)
        try:
            await reward.score("length", [("p", "x" * (65 * 1024 * 1024))])
        except trueline.CallError as error:
            print(error.code.name, error.retryable)
asyncio.run(main())
"""


# Through TLS and a token, by arguments; then the token is another's.
SECURED_SCRIPT = """
import asyncio, sys, trueline
async def main():
    address, ca, token_file, weak = sys.argv[1:]
    async with trueline.RewardClient(address, access=trueline.Access(ca=ca, token_file=token_file)) as reward:
        await trueline.wait_until_ready(reward, timeout=20)
        reply = await reward.score("length", [("p", "x" * size) for size in range(1, 33)])
        print([score.value.raw for score in reply.scores] == [float(size) for size in range(1, 33)])
    async with trueline.RewardClient(address, access=trueline.Access(ca=ca, token=weak)) as reward:
        try:
            await reward.score("length", [("p", "abc")])
        except trueline.CallError as error:
            print(error.code.name, error.reason, error.info["scope"])
asyncio.run(main())
"""


def readme_example() -> str:
    """The first Python block of the client's README: what an outsider pastes."""
    text = (ROOT / "protos/README.md").read_text(encoding="utf-8")
    return re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)


@pytest.fixture
def declared_floors(project) -> list[str]:
    """The oldest versions that pyproject.toml allows, as pins."""
    return [re.sub(r">=([\d.]+).*", r"==\1", need) for need in project["dependencies"]]


def clean_environment(folder: Path, *installs: str | Path) -> Path:
    """A new virtual environment with these packages; the path of its python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--only-binary=:all:", *installs]
    installed = subprocess.run([str(each) for each in pip], capture_output=True, text=True)
    assert installed.returncode == 0, installed.stderr
    return python


async def check(python: Path, program) -> None:
    """Runs the README's five lines, the longer script, and the command, against scripted servers."""
    async with serve(ScriptedReward, "length") as one, serve(ScriptedReward, "length") as two:
        example = readme_example().replace("localhost:50053", one.address)
        assert len(example.strip().splitlines()) == 5
        ran = await program(python, "-W", "error", "-c", example)
        assert ran.code == 0 and "raw: 28" in ran.out, ran.err

        one.script.refuse = 1
        ran = await program(python, "-c", LONGER_SCRIPT, one.address, two.address)
        assert ran.out.split() == ["True", "RESOURCE_EXHAUSTED", "False"], ran.err
        assert one.script.calls.count("Score") > 1 and two.script.calls.count("Score") > 1

        item = '{"prompt": "p", "response": "abcd"}'
        ran = await program(python.parent / "trueline", "score", one.address, stdin=item)
        assert '"raw": 4.0' in ran.out, ran.err


async def check_secured(python: Path, program, folder: Path) -> None:
    """A batch through TLS and a token, from a script and the command, against the real reward service."""
    root = authority(folder / "root")
    server = issue(root, "server")
    strong, kept = new_token("outsider", ["score"], None)
    weak, other = new_token("reader", ["read"], None)
    (folder / "tokens").write_text(f"{kept.line}\n{other.line}\n")
    (folder / "token").write_text(strong + "\n")
    settings = RewardSettings(
        rules=(("length", "tests.edge.rules:length"),), grace=1.0, tokens=folder / "tokens",
        tls_certificate=server.certificate, tls_key=server.key,
    )  # fmt: skip
    service = "trueline.v1.RewardService"
    async with running(service, lambda host: RewardServicer(Rewards(host, settings)), settings) as served:
        known = (root.certificate, folder / "token")
        ran = await program(python, "-W", "error", "-c", SECURED_SCRIPT, served.address, *known, weak)
        assert ran.out.split() == ["True", "PERMISSION_DENIED", "token_scope", "score"], ran.err
        item = '{"prompt": "p", "response": "abcd"}'
        words = [python.parent / "trueline", "score", served.address]
        ran = await program(*words, "--ca", known[0], "--token-file", known[1], stdin=item)
        assert '"raw": 4.0' in ran.out, ran.err
        ran = await program(*words, TRUELINE_CA=str(known[0]), TRUELINE_TOKEN=weak, stdin=item)
        assert ran.code == 1 and "PERMISSION_DENIED" in ran.err


@pytest.mark.timeout(300)  # installing, over a network
async def test_an_outsider_with_the_newest_packages_scores_a_batch_in_five_lines(wheel, tmp_path, program):
    python = clean_environment(tmp_path / "venv", wheel)
    listed = await program(python, "-m", "pip", "list", "--format=freeze")
    names = {line.partition("=")[0].lower() for line in listed.out.split()}
    assert not names & {"torch", "numpy", "transformers"}
    await check(python, program)
    await check_secured(python, program, tmp_path)


@pytest.mark.timeout(300)
async def test_an_outsider_with_the_oldest_packages_scores_a_batch_in_five_lines(
    wheel, tmp_path, program, declared_floors
):
    if sys.version_info[:2] > (3, 11):
        pytest.skip(f"the oldest grpcio allowed has no wheels for Python {sys.version.split()[0]}")
    python = clean_environment(tmp_path / "venv", wheel, *declared_floors)
    listed = await program(python, "-m", "pip", "list", "--format=freeze")
    assert set(declared_floors) <= set(listed.out.split())
    await check(python, program)
    await check_secured(python, program, tmp_path)
