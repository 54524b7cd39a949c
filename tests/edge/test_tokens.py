"""The file of tokens, the command that writes it, and what a server makes of it while it runs."""

import logging
import os
import stat

import pytest

from services.server import running
from services.settings import ServerSettings
from services.tokens import main
from tests.server.scripted import SERVICE, ScriptedApplication
from trueline.tokens import Refused, TokenFile, new_token, read_line, read_tokens


def test_a_new_token_is_shown_once_and_its_line_opens_the_door(tmp_path, capsys):
    file = tmp_path / "tokens"
    assert main(["new", "--name", "trainer-x", "--scopes", "score,read", "--days", "90"]) == 0
    secret, line = [text.split(":", 1)[1].strip() for text in capsys.readouterr().out.splitlines()]
    assert secret not in line
    file.write_text(line + "\n")
    held = TokenFile(file)
    assert held.check(f"Bearer {secret}", "score").name == "trainer-x"
    with pytest.raises(Refused, match="needs scope 'train'"):
        held.check(f"Bearer {secret}", "train")


def test_a_token_is_added_to_a_file_listed_and_removed(tmp_path, capsys):
    file = tmp_path / "tokens"
    new = ["new", "--scopes", "read", "--file", str(file)]
    assert main([*new, "--name", "a", "--forever"]) == 0
    secret = capsys.readouterr().out.strip()
    assert secret not in file.read_text() and file.stat().st_mode & 0o077 == 0
    held = TokenFile(file)
    assert main([*new, "--name", "b", "--days", "0.5"]) == 0
    other = capsys.readouterr().out.strip()
    assert held.check(f"Bearer {other}", "read").name == "b"
    assert main([*new, "--name", "b", "--days", "1"]) == 2
    assert "b is in" in capsys.readouterr().err
    assert main(["list", str(file)]) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [
        ["a", "read"],
        ["b", "read"],
    ]
    assert main(["remove", "--name", "a", str(file)]) == 0
    with pytest.raises(Refused, match="not known"):
        held.check(f"Bearer {secret}", "read")


@pytest.mark.parametrize("words", [["new", "--scopes", "read", "--forever", "--file"], ["remove"]])
def test_a_file_that_changes_keeps_its_mode_its_owner_and_the_link_to_it(tmp_path, words):
    file, link = tmp_path / "tokens", tmp_path / "link"
    _, known = new_token("a", ["read"], None)
    file.write_text(known.line + "\n")
    file.chmod(0o640)
    owner = (os.getuid(), os.getgid())
    if os.getuid() == 0:
        owner = (12345, 12346)
        os.chown(file, *owner)
    link.symlink_to(file)
    name = "b" if words[0] == "new" else "a"
    assert main([words[0], "--name", name, *words[1:], str(link)]) == 0
    assert [token.name for token in read_tokens(file)] == (["a", "b"] if name == "b" else [])
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert (file.stat().st_uid, file.stat().st_gid) == owner
    assert link.is_symlink() and sorted(tmp_path.iterdir()) == [link, file]


def test_a_file_whose_owner_cannot_be_kept_stays_as_it_was(tmp_path, monkeypatch, capsys):
    file = tmp_path / "tokens"
    _, known = new_token("a", ["read"], None)
    file.write_text(known.line + "\n")

    def refused(*words: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refused)
    assert main(["remove", "--name", "a", str(file)]) == 2
    assert "unchanged" in capsys.readouterr().err and list(tmp_path.iterdir()) == [file]
    assert [token.name for token in read_tokens(file)] == ["a"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--name", "x y", "--scopes", "read", "--days", "1"],
        ["--name", "x", "--scopes", "read,write", "--days", "1"],
        ["--name", "x", "--scopes", "", "--days", "1"],
        ["--name", "x", "--scopes", "read", "--days", "-1"],
        ["--name", "x", "--scopes", "read", "--days", "nan"],
    ],
)
def test_a_token_that_makes_no_sense_is_not_made(arguments, capsys):
    assert main(["new", *arguments]) == 2
    assert capsys.readouterr().out == ""


def test_every_faulty_line_is_told_and_none_is_quoted(tmp_path):
    _, good = new_token("a", ["read"], None)
    path = tmp_path / "tokens"
    path.write_text(
        f"{good.line}\nb read never sha256:short\nc read tomorrow {good.digest}\n{good.line}\nd\n"
    )
    with pytest.raises(ValueError) as caught:
        read_tokens(path)
    said = str(caught.value)
    assert all(part in said for part in ("line 2: b", "line 3: c", "line 5", "a is there twice"))
    assert good.digest not in said and "short" not in said
    assert read_line(good.line) == good


@pytest.mark.parametrize(
    "header", ["", "Basic abc", "Bearer", "Bearer  ", "tl_x", "Bearer tl_wrong", "Bearer é"]
)
def test_anything_else_is_refused(tokens, header):
    with pytest.raises(Refused):
        TokenFile(tokens.path).check(header, "read")


async def test_a_server_learns_of_new_and_removed_tokens_without_a_restart(tokens, caplog):
    import grpc

    caplog.set_level(logging.DEBUG)
    async with running(
        SERVICE, ScriptedApplication, ServerSettings(tokens=tokens.path, reflection=True)
    ) as server:
        from tests.edge.test_every_call import methods_of

        async with grpc.aio.insecure_channel(server.address) as channel:
            late = tokens.add("late", "read")
            assert await methods_of(channel, late)
            tokens.remove("late")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await methods_of(channel, late)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            tokens.path.write_text("this is no line of tokens at all\n")
            assert await methods_of(channel, tokens.secrets["read"])  # the tokens before it stay
    assert "tokens not read again" in caplog.text
    named = [record.caller for record in caplog.records if hasattr(record, "caller")]
    assert not [each for each in tokens.secrets.values() if each in caplog.text or each in str(named)]
