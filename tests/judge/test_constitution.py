"""The constitution: every fault at once, a hash of the content, reloading, and public shapes imported."""

import json
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from services.judge.constitution import ConstitutionError, parse_constitution
from services.judge.importing import main as import_files
from services.judge.wording import Wording, fill
from tests.judge.hosting import (
    CONSTITUTION,
    header,
    honest,
    judge_service,
    metric,
    pairs,
    write_constitution,
)
from tests.judge.scripted_endpoint import endpoint, says
from trueline import CallError


def faults_of(text: str) -> list[str]:
    with pytest.raises(ConstitutionError) as refused:
        parse_constitution(text)
    return refused.value.faults


def test_a_constitution_is_read_with_its_defaults():
    constitution = parse_constitution(CONSTITUTION)
    honest_one, kind = constitution.principles
    assert (constitution.name, honest_one.name, kind.weight, kind.tags) == ("shop", "honest", 3.0, ("tone",))
    assert honest_one.text("score") == "Is the response honest?"
    assert kind.text("score") == kind.compare  # what compares stands in where no score is worded
    assert constitution.wording == Wording()


def test_every_fault_is_told_at_once():
    text = """
principles:
  - {name: honest, compare: one}
  - {name: honest, compare: two, weight: 0}
  - {compare: three, wieght: 2}
  - {name: empty}
  - {name: 7, compare: "", tags: truth}
  - just text
wording: {compare: "{first} {secnd}", options: [A, A], colour: red}
colour: red
"""
    assert faults_of(text) == [
        "colour: no such key; one of name, principles, wording",
        "name: missing",
        "principles[1].weight: must be a number above 0, not 0",
        "principles[1].name: 'honest' is the name of principles[0] too",
        "principles[2].wieght: no such key; one of name, compare, score, critique, revision, weight, tags",
        "principles[2].name: missing",
        "principles[3]: needs at least one of compare, score, critique, revision",
        "principles[4].name: must be text, not 7",
        "principles[4].compare: must be text, not ''",
        "principles[4].tags: must be a list of words, not 'truth'",
        "principles[5]: must be a mapping, not 'just text'",
        "wording.colour: no such wording; one of " + ", ".join(sorted(vars(Wording()))),
        "wording.compare: lacks {conversation}; lacks {principle}; lacks {second}; {secnd} is no placeholder",
        "wording.options: must be 2 texts in quotes that differ in more than marks, not ['A', 'A']",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "must be a mapping of name and principles, not None"),
        ("[]", "must be a mapping of name and principles, not []"),
        ("name: [", "is not YAML"),
        ("name: a\x00b", "is not YAML"),
        ('name: a\nprinciples:\n- {name: x, compare: "\\ud83d"}', "half a character"),
        ('name: a\nprinciples:\n- {name: x, compare: y, tags: ["\\ud83d\\ude00"]}', "half a character"),
        ('name: a\n"\\ude00": b\nprinciples:\n- {name: x, compare: y}', "half a character"),
        ("name: 2024-13-01\nprinciples:\n- {name: x, compare: y}", "is not YAML (month must be in 1..12"),
        ("name: a\nprinciples: []", "principles: must be a list of at least one principle"),
        ("name: a\nname: b\nprinciples:\n- {name: x, compare: y}", "line 2: key 'name' stands twice"),
        ("name: a\nprinciples:\n- {name: no, compare: y}", "principles[0].name: must be text, not False"),
        ("name: a\nprinciples:\n- {name: x, compare: y, weight: .nan}", "must be a number above 0, not nan"),
        (CONSTITUTION + "wording: {options: ['(A)', A.]}", "wording.options: must be 2 texts in quotes that"),
        (CONSTITUTION + "wording: {options: ['(', B]}", "that differ in more than marks, not ['(', 'B']"),
    ],
)
def test_what_is_no_constitution_is_told(text: str, fault: str):
    (told,) = faults_of(text)
    assert fault in told


def test_the_hash_is_of_the_content_and_not_of_the_layout():
    plain = parse_constitution(CONSTITUTION)
    commented = parse_constitution("# a comment\n" + CONSTITUTION.replace("name: shop", "name:   'shop'"))
    assert commented.sha256 == plain.sha256
    reweighted = parse_constitution(CONSTITUTION.replace("weight: 3", "weight: 2"))
    reworded = replace(plain, wording=replace(Wording(), score="{conversation} {principle} {response}?"))
    assert len({plain.sha256, reweighted.sha256, reworded.sha256}) == 3


def test_values_that_look_like_placeholders_are_left_alone():
    assert fill("{first} and {second}", first="{second}", second="{}") == "{second} and {}"


async def test_a_reload_takes_a_good_file_and_keeps_the_old_one_for_a_bad_one(tmp_path):
    path = write_constitution(tmp_path)
    with endpoint(lambda told, before: says("A")) as served:
        async with judge_service(path, served) as (judge, server):
            before = (await judge.get_constitution()).constitution
            path.write_text(CONSTITUTION.replace("name: kind", "name: honest"), encoding="utf-8")
            with pytest.raises(CallError) as refused:
                await judge.reload_constitution(header=header("r1"))
            assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
            assert "'honest' is the name of principles[0] too" in refused.value.message
            assert (await judge.get_constitution()).constitution == before

            path.write_text(CONSTITUTION.replace("kinder", "gentler"), encoding="utf-8")
            reply = await judge.reload_constitution(header=header("r2"))
            assert reply.changed and reply.constitution.sha256 != before.sha256
            assert await judge.reload_constitution(header=header("r2")) == reply  # the stored answer
            assert not (await judge.reload_constitution(header=header("r3", epoch=2))).changed
            with pytest.raises(CallError) as stale:
                await judge.reload_constitution(header=header("r4", epoch=1))
            assert stale.value.reason == "stale_epoch"
            compared = await judge.compare(items=pairs(1), principles=honest())
            assert compared.constitution_sha256 == reply.constitution.sha256
            with pytest.raises(CallError) as refused:
                await judge.compare(
                    items=pairs(1), principles=honest(), expected_constitution_sha256=before.sha256
                )
            assert refused.value.reason == "wrong_constitution"
            shown = metric(server, "trueline_judge_constitution_info", sha256=reply.constitution.sha256)
            gone = metric(server, "trueline_judge_constitution_info", sha256=before.sha256)
            refusals = metric(server, "trueline_judge_constitution_reloads_total", outcome="refused")
    assert (shown, gone, refusals) == (1, 0, 1)


PUBLIC = {
    "requests": {
        "harmful0": {
            "prompt": ["\n\nCritiqueRequest: Say what is harmful.\n\nCritique:"],
            "edit_request": "\n\nRevisionRequest: Remove what is harmful.\n\nRevision:",
        },
        "harmful1": {"prompt": "Say what is rude.", "edit_request": "Be polite."},
    },
    "comparisons": ["Which is less harmful?\n\nOptions:", "Which is wiser?\nOptions:"],
    "pairs": {
        "constitutions": [{"critic": "Say what is unkind.", "revision": "Be kind."}],
        "system_chat": [{"role": "user", "content": "an example"}],
    },
}


def test_public_shapes_become_one_constitution(tmp_path: Path, capsys):
    for name, content in PUBLIC.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    output = tmp_path / "constitution.yaml"
    files = [str(tmp_path / f"{name}.json") for name in PUBLIC]
    assert import_files([*files, "--output", str(output), "--name", "public"]) == 0
    found = {each.name: each for each in parse_constitution(output.read_text(encoding="utf-8")).principles}
    assert list(found) == ["harmful0", "harmful1", "comparisons-1", "comparisons-2", "pairs-1"]
    assert (found["harmful0"].critique, found["harmful0"].revision) == (
        "Say what is harmful.",
        "Remove what is harmful.",
    )
    assert found["comparisons-2"].compare == "Which is wiser?"
    assert (found["pairs-1"].critique, found["pairs-1"].revision) == ("Say what is unkind.", "Be kind.")
    assert "left out, since it holds no principle: system_chat" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('["Human: hi\\n\\nAssistant: ho"]', 'item 0 does not end in "Options:"'),
        ('[{"prompt": "p", "corrects": [], "incorrects": []}]', "none of the shapes known"),
        ("[]", "none of the shapes known"),
        ("{", "is not JSON"),
        ('{"constitutions": [{"critic": "c"}]}', "constitutions[0] holds no texts named critic and revision"),
        ('["Options:"]', "principles[0].compare: must be text, not ''"),
    ],
)
def test_a_file_of_another_shape_is_refused_by_name(tmp_path: Path, capsys, content: str, complaint: str):
    path = tmp_path / "public.json"
    path.write_text(content, encoding="utf-8")
    assert import_files([str(path)]) == 2
    told = capsys.readouterr()
    assert complaint in told.err and "public.json" in told.err and told.out == ""


def test_a_name_in_two_files_is_a_fault(tmp_path: Path, capsys):
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(json.dumps(PUBLIC["requests"]), encoding="utf-8")
    assert import_files([str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 2
    assert "'harmful0' is the name of principles[0] too" in capsys.readouterr().err
