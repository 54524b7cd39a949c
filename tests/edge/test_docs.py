"""docs/security.md says what the code does: scopes by method, flags, and commands that run."""

import dataclasses
import re
import shlex
from pathlib import Path

from services.scopes import SCOPE_OF_RPC
from services.settings import EdgeSettings
from services.tokens import main
from trueline.access import ENVIRONMENT
from trueline.tokens import SCOPES

TEXT = (Path(__file__).resolve().parents[2] / "docs/security.md").read_text(encoding="utf-8")


def test_the_table_of_scopes_is_the_codes():
    told = {}
    for scope, methods in re.findall(r"^\| `(\w+)` \| (.*) \|$", TEXT, re.MULTILINE):
        told.update({name: scope for name in re.findall(r"(\w+\.\w+)", methods)})
    held = {}
    for method, scope in SCOPE_OF_RPC.items():
        service, _, name = method.lstrip("/").partition("/")
        if service.startswith("trueline."):
            held[f"{service.rpartition('.')[2].removesuffix('Service')}.{name}"] = scope
    assert told == held
    assert set(told.values()) == set(SCOPES)


def test_every_flag_and_every_variable_is_explained():
    flags = ["--" + field.name.replace("_", "-") for field in dataclasses.fields(EdgeSettings)]
    assert [name for name in [*flags, *ENVIRONMENT.values()] if f"`{name}" not in TEXT] == []


def test_the_commands_marked_as_tested_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"<!-- tested -->\n```sh\n(.*?)```", TEXT, re.DOTALL)
    for command in block.strip().splitlines():
        words = shlex.split(command)
        assert words[:3] == ["python", "-m", "services.tokens"]
        assert main(words[3:]) == 0
