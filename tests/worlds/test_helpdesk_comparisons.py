"""Preferences drawn from gold by Bradley-Terry."""

import json
import math
import subprocess
import sys
from random import Random

import pytest

from worlds.helpdesk.comparisons import compare, draw_preference, win_probability

MESSAGES = [{"role": "user", "content": "my red lamp from monday arrived broken ."}]
GOOD, FAIR, BAD = "we will replace your lamp .", "we will replace it .", "it was your own fault ."


def row(number: int, responses: list[str]) -> dict:
    return {"prompt_id": f"p{number}", "messages": MESSAGES, "responses": responses}


def test_win_probability():
    assert win_probability(0.0, 2.0) == 0.5
    assert win_probability(1.0, 2.0) == pytest.approx(1 / (1 + math.exp(-2)))
    assert win_probability(-1e6, 1.0) == 0.0 and win_probability(1e6, 1.0) == 1.0


def test_noise_rate_is_as_expected():
    """GOOD is 1.0 above FAIR: at scale 2 it loses 11.9% of 8000 draws, within 4 standard errors."""
    lost = sum(compare(row(n, [GOOD, FAIR]), 2.0, seed=0)["preference"][0][0] == 1 for n in range(8000))
    expected = 1 / (1 + math.exp(2.0))
    assert abs(lost / 8000 - expected) < 4 * math.sqrt(expected * (1 - expected) / 8000)


def test_every_pair_occurs_once():
    triples = draw_preference([3.0, 2.0, -1.0, 0.0], 1.0, Random(0))
    pairs = sorted((min(i, j), max(i, j)) for i, j, _ in triples)
    assert pairs == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert {triple[2] for triple in triples} == {1.0}


def test_equal_texts_hold_no_preference():
    assert compare(row(0, [GOOD, GOOD]), 2.0, seed=0)["preference"] == []
    assert len(compare(row(0, [GOOD, BAD, GOOD]), 2.0, seed=0)["preference"]) == 2


def test_a_draw_depends_on_seed_and_prompt_alone():
    draws = [compare(row(n, [GOOD, FAIR, BAD]), 0.5, seed=3)["preference"] for n in range(20)]
    again = [compare(row(n, [GOOD, FAIR, BAD]), 0.5, seed=3)["preference"] for n in reversed(range(20))]
    assert draws == again[::-1]
    assert draws != [compare(row(n, [GOOD, FAIR, BAD]), 0.5, seed=4)["preference"] for n in range(20)]


def test_the_command_writes_what_the_function_gives(tmp_path, pytestconfig):
    rows = [row(0, [GOOD, BAD]), row(1, [FAIR, FAIR]), row(2, [BAD, FAIR, GOOD])]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(r) + "\n" for r in rows))
    command = [sys.executable, "-m", "worlds.helpdesk", "compare", "--input", source, "--output", target]
    subprocess.run([*command, "--seed", "5", "--scale", "2"], check=True, cwd=pytestconfig.rootpath)
    written = [json.loads(line) for line in target.read_text().splitlines()]
    # The row of equal texts holds no preference and is left out.
    assert written == [compare(rows[0], 2.0, 5), compare(rows[2], 2.0, 5)]
    assert written[0]["source"] == "gold"
