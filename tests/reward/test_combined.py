"""Several scorers as one, over the wire: what it says of each item, and that it never says it by half."""

import asyncio
import math
import urllib.request
from pathlib import Path

import grpc
import pytest

from services.reward.combinations import read_combination
from tests.reward.hosting import header, location, publish_reward, reward_service
from trueline import CallError
from trueline.v1 import reward_pb2, types_pb2

RULES = (
    ("words", "tests.reward.scripted_rules:count_words"),
    ("bad", "tests.reward.scripted_rules:misbehave"),
)
ITEMS = [("w1", "w2"), ("w1 w3", "w2 w4 w5"), ("w2", "")]
NAMES = ("reward-1", "reward-2", "reward-3")


def combined(**texts: str):
    """Settings of combined scorers: combined(both="weights:a*1,b*2")."""
    return tuple((name.replace("_", "-"), read_combination(text)) for name, text in texts.items())


def values(reply: reward_pb2.ScoreResponse) -> list[float]:
    assert all(score.WhichOneof("outcome") == "value" for score in reply.scores)
    return [score.value.normalised for score in reply.scores]


async def ensemble_of_three(client, models_dir: Path) -> None:
    """Loads three versions of different seeds and gains as three scorers."""
    for number, name in enumerate(NAMES, start=1):
        extra = {"normalisation": {"gain": number / 2, "bias": 0.1 * number}}
        published = publish_reward(models_dir, number, extra=extra)
        await client.load_weights(
            reward_pb2.RewardServiceLoadWeightsRequest(
                header=header(f"load-{number}"), scorer=name, location=location(published)
            )
        )


@pytest.mark.parametrize("how", ["mean", "min", "mean_minus_variance(0.5)"])
async def test_an_ensemble_combines_its_members_normalised_scores(tmp_path: Path, how: str):
    learned = tuple((name, None) for name in NAMES)
    made = combined(all=f"{how}:{','.join(NAMES)}")
    async with reward_service(rules=(), learned=learned, combined=made) as (client, _):
        await ensemble_of_three(client, tmp_path)
        apart = [values(await client.score(name, ITEMS)) for name in NAMES]
        reply = await client.score("all", ITEMS)
    for score, members in zip(reply.scores, zip(*apart, strict=True), strict=True):
        mean = sum(members) / 3
        spread = sum((member - mean) ** 2 for member in members)
        expected = {"mean": mean, "min": min(members)}.get(how, mean - 0.5 * spread / 3)
        assert score.value.normalised == pytest.approx(expected, rel=1e-9)
        assert score.value.raw == score.value.normalised
        assert score.value.HasField("disagreement")
        assert score.value.disagreement == pytest.approx(math.sqrt(spread / 2), rel=1e-9)
        assert score.value.disagreement > 0
    assert reply.scorer.kind == reward_pb2.SCORER_KIND_COMBINED
    assert list(reply.scorer.parts) == list(NAMES)
    assert reply.scorer.combination == made[0][1].text


async def test_an_ensemble_has_a_version_that_changes_with_any_member(tmp_path: Path):
    learned, made = (("a", None), ("b", None)), combined(both="mean:a,b")
    one, two = publish_reward(tmp_path, 1), publish_reward(tmp_path, 2)

    async with reward_service(rules=(), learned=learned, combined=made) as (client, _):

        async def load(name: str, published, request: str) -> types_pb2.ModelVersion:
            await client.load_weights(
                reward_pb2.RewardServiceLoadWeightsRequest(
                    header=header(request), scorer=name, location=location(published)
                )
            )
            scorers = {each.name: each for each in (await client.list_scorers()).scorers}
            return scorers["both"].version

        assert not (await load("a", one, "r1")).sha256  # b has no model yet
        with pytest.raises(CallError) as missing:
            await client.score("both", ITEMS)
        assert (missing.value.code, missing.value.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "not_loaded",
        )
        assert "'b'" in missing.value.message
        first = await load("b", one, "r2")
        assert first.sha256 and first.number == 1 and first.model == "both"
        assert len(values(await client.score("both", ITEMS, expected_version=first))) == len(ITEMS)
        second = await load("b", two, "r3")
        assert second.number == 2 and second.sha256 != first.sha256
        with pytest.raises(CallError) as stale:
            await client.score("both", ITEMS, expected_version=first)
        assert stale.value.reason == "wrong_version"


async def test_a_part_that_fails_an_item_fails_it_for_all_and_no_other():
    made = combined(
        sum="weights:words*1,bad*1",
        gated="gate(bad>=0,-2):words",
        soft="log_sigmoid:words@0,bad@0",
        nested="weights:sum*2,words*0",
    )
    ways = ["raises", "fine words", "nan"]
    async with reward_service(rules=RULES, learned=(), combined=made) as (client, server):
        for name in ("sum", "gated", "soft", "nested"):
            reply = await client.score(name, [("hi", way) for way in ways])
            outcomes = [score.WhichOneof("outcome") for score in reply.scores]
            assert outcomes == ["error", "value", "error"], name
            assert reply.scores[0].error.reason == "part_failed"
            assert "bad: rule_failed: KeyError" in reply.scores[0].error.message
            assert "bad: non_finite" in reply.scores[2].error.message


async def test_objectives_are_weighed_gated_and_nested():
    made = combined(
        sum="weights:words*0.5,bad*3",
        closed="gate(bad>=1,-2):words",
        open="gate(bad>=0,-2):words",
        nested="weights:sum*2,open*1",
    )
    async with reward_service(rules=RULES, learned=(), combined=made) as (client, _):
        found = {}
        for name in ("sum", "closed", "open", "nested"):
            reply = await client.score(name, [("hi", "one two three")])
            found[name] = values(reply)[0]
            assert not reply.scores[0].value.HasField("disagreement")  # objectives may differ
            assert not reply.scorer.HasField("version")  # rules all the way down
    assert found == {"sum": 1.5, "closed": -2.0, "open": 3.0, "nested": 6.0}


async def test_members_disagreement_is_a_metric(tmp_path: Path):
    made = combined(both="mean:words,bad")
    async with reward_service(rules=RULES, learned=(), combined=made) as (client, server):
        await client.score("both", [("hi", "one two"), ("hi", "raises")])
        url = f"http://{server.metrics_address}/metrics"
        text = (await asyncio.to_thread(lambda: urllib.request.urlopen(url).read())).decode()
    assert 'trueline_reward_disagreement_count{scorer="both"} 1.0' in text
    assert 'trueline_reward_disagreement_sum{scorer="both"} 1.414' in text
    assert 'trueline_reward_items_total{outcome="part_failed",scorer="both"} 1.0' in text


async def test_length_control_takes_a_fixed_amount_for_each_token(tmp_path: Path):
    plain = {"gain": 2.0, "bias": 0.5}
    one = publish_reward(tmp_path, 1, extra={"normalisation": plain})
    two = publish_reward(tmp_path / "b", 1, extra={"normalisation": {**plain, "length_coefficient": -0.25}})
    learned = (("free", one.path), ("controlled", two.path))
    async with reward_service(rules=(), learned=learned) as (client, _):
        free = await client.score("free", ITEMS)
        controlled = await client.score("controlled", ITEMS)
    assert controlled.scorer.normalisation.length_coefficient == -0.25
    for before, after, tokens in zip(free.scores, controlled.scores, (1, 3, 0), strict=True):
        assert after.value.raw == before.value.raw
        expected = before.value.normalised - 0.25 * tokens
        assert after.value.normalised == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("mean", "must be HOW:PART,PART"),
        ("median:a,b", "must be HOW:PART,PART"),
        ("mean:a", "at least two members"),
        ("mean:a,a", "a name of its own"),
        ("mean(1):a,b", r"mean takes no \(...\)"),
        ("mean_minus_variance:a,b", r"takes an argument in \(...\)"),
        ("mean_minus_variance(-1):a,b", "must be at least 0"),
        ("weights:a,b", r"every part is NAME\*NUMBER"),
        ("weights:a*nan", "must be a finite number"),
        ("gate(a):b", "must be gate"),
        ("gate(a>=0,x):b", "must be a number, not 'x'"),
    ],
)
def test_a_combination_that_cannot_be_is_told(text: str, fault: str):
    with pytest.raises(ValueError, match=fault):
        read_combination(text)
