"""What preference learning leaves out, and what it refuses, by name."""

import math

import pytest

from services.trainer.preference_losses import PREFERENCE_LOSSES
from tests.tiny_models import write_tiny_model
from tests.trainer.wiring import (
    begin_request,
    conversation,
    one_preference_step,
    plain,
    preference_models,
    preference_request,
    sampled_pairs,
    trainer,
)
from trueline import CallError
from trueline.v1 import trainer_pb2 as pb
from trueline.v1 import types_pb2


def changed(pair, **fields):
    copy = pb.PreferencePair()
    copy.CopyFrom(pair)
    for name, value in fields.items():
        if value is None:
            copy.ClearField(name)
        elif isinstance(value, (float, int)):
            setattr(copy, name, value)
        else:
            getattr(copy, name).CopyFrom(value)
    return copy


def written(first, second, prompt="w1 w2"):
    return pb.PreferencePair(written=pb.WrittenPair(text=prompt, first=first, second=second), probability=1.0)


async def test_rows_that_cannot_train_are_left_out_with_their_reasons_and_leave_no_trace(tmp_path, start):
    good = sampled_pairs(start, start, 8)
    error = types_pb2.ItemError(reason="orders_disagree", message="the judge abstained")
    turn = conversation(("user", "w1"), ("assistant", "w2"))
    bad = [
        changed(good[0], probability=None),
        changed(good[1], error=error),
        changed(good[2], probability=math.nan),
        changed(good[3], probability=0.5),
        written("w3", "w3"),
        written("w3", "w4 " * 70),
        written("w3", "w4", prompt=""),
        pb.PreferencePair(
            written=pb.WrittenPair(conversation=turn, first="w3", second="w4 " * 70), probability=1.0
        ),
    ]
    mixed = await one_preference_step(tmp_path, [*bad[:4], *good[:5], *bad[4:], *good[5:]], start)
    alone = await one_preference_step(tmp_path, good, start)
    assert [(row.row, row.reason) for row in mixed.excluded] == [
        (0, "preference_missing"),
        (1, "preference_failed"),
        (2, "preference_not_finite"),
        (3, "tie"),
        (9, "identical"),
        (10, "too_long"),
        (11, "empty"),
        (12, "too_long"),
    ]
    assert "orders_disagree: the judge abstained" in mixed.excluded[1].message
    assert mixed.weights_sha256 == alone.weights_sha256
    assert {**mixed.metrics, "excluded": 0} == dict(alone.metrics)


async def test_a_tie_trains_where_the_loss_takes_the_label_as_it_is(tmp_path, start):
    pairs = [changed(pair, probability=0.5) for pair in sampled_pairs(start, start, 4)]
    found = await one_preference_step(tmp_path, pairs, start, loss="soft_dpo")
    assert found.metrics["rows"] == 4 and "accuracy" not in found.metrics
    nothing = await one_preference_step(tmp_path, pairs, start, loss="dpo")
    assert nothing.trained and nothing.weights_sha256 != found.weights_sha256
    assert dict(nothing.metrics) == {"comparisons": 0, "rows": 0, "excluded": 4, "tokens": 0, "updates": 0}
    assert {row.message for row in nothing.excluded} == {
        "neither response is the better one, which dpo needs"
    }


async def test_pairs_of_which_none_can_be_measured_have_no_numbers(tmp_path, start):
    ties = [changed(pair, probability=0.5) for pair in sampled_pairs(start, start, 3)]
    found = await one_preference_step(tmp_path, ties, start, evaluate_only=True)
    assert dict(found.metrics) == {"comparisons": 0, "rows": 0, "excluded": 3, "tokens": 0}
    assert not found.trained and {row.reason for row in found.excluded} == {"tie"}
    one_prompt = [written("w3", "w4"), written("w5", "w6")]
    found = await one_preference_step(tmp_path, one_prompt, start, loss="kto", evaluate_only=True)
    assert dict(found.metrics) == {"comparisons": 0, "rows": 0, "excluded": 0, "tokens": 0}
    with pytest.raises(CallError, match="kto needs for each prompt a pair of another prompt"):
        await one_preference_step(tmp_path, one_prompt, start, loss="kto")


async def test_too_many_missing_preferences_refuse_the_step(tmp_path, start):
    pairs = sampled_pairs(start, start, 10)
    pairs[:2] = [changed(pair, probability=None) for pair in pairs[:2]]
    with pytest.raises(CallError, match="2 of 10 pairs have no usable preference; max_missing_share is 0.1"):
        await one_preference_step(tmp_path, pairs, start, max_missing_share=0.1)
    assert (await one_preference_step(tmp_path, pairs, start, max_missing_share=0.2)).trained


def put(side, **fields):
    """Sets fields of one sampled side; lists are replaced."""

    def change(pair):
        rollout = getattr(pair.sampled, side)
        for name, value in fields.items():
            if isinstance(value, list):
                getattr(rollout, name)[:] = value
            else:
                rollout.sampling.temperature = value

    return change


REFUSED = [
    (lambda pair: pair.ClearField("sampled"), "responses"),
    (lambda pair: setattr(pair, "probability", 1.5), "probability"),
    (lambda pair: setattr(pair, "weight", 0.0), "weight"),
    (lambda pair: setattr(pair, "weight", math.nan), "weight"),
    (lambda pair: setattr(pair, "margin", -1.0), "margin"),
    (put("first", response_ids=[]), "sampled.first.response_ids"),
    (put("second", prompt_ids=[1, 9]), "sampled.second.prompt_ids"),
    (put("second", response_ids=[64]), "sampled.second.response_ids"),
    (put("first", temperature=0.7), "sampled.first.sampling.temperature"),
    (put("first", reference_logprobs=[]), "sampled.first.reference_logprobs"),
    (put("second", reference_logprobs=[-1.0] * 40), "sampled.second.reference_logprobs"),
    (
        lambda pair: pair.sampled.first.reference_logprobs.__setitem__(0, 0.5),
        "sampled.first.reference_logprobs",
    ),
    (
        lambda pair: pair.sampled.first.reference_logprobs.__setitem__(0, math.nan),
        "sampled.first.reference_logprobs",
    ),
    (
        lambda pair: setattr(pair.sampled.second.reference_version, "number", 9),
        "sampled.second.reference_version",
    ),
    (lambda pair: pair.CopyFrom(written("w1", "w2")), "responses"),
]


async def test_a_malformed_pair_refuses_the_batch_by_name(tmp_path, start):
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "preference"))
        before = (await client.get_state()).weights_sha256
        for number, (spoil, field) in enumerate(REFUSED):
            pairs = sampled_pairs(start, start, 3)
            spoil(pairs[1])
            with pytest.raises(CallError) as caught:
                await client.preference_step(preference_request(pairs, name=f"bad {number}"))
            assert caught.value.code.name == "INVALID_ARGUMENT", field
            assert f"batch.pairs[1].{field}" in [name for name, _ in caught.value.field_violations]
        after = await client.get_state()
    assert (after.step, after.weights_sha256) == (0, before)


async def test_log_probs_of_another_reference_than_the_stages_own_are_refused(tmp_path, start):
    other = write_tiny_model(tmp_path / "other", "llama", seed=2)
    with pytest.raises(CallError) as caught:
        await one_preference_step(tmp_path, sampled_pairs(start, start, 2), other)
    assert caught.value.field_violations[0][0] == "batch.pairs[0].sampled.first.reference_version"


async def test_a_margin_for_a_loss_that_takes_none_is_refused(tmp_path, start):
    pairs = sampled_pairs(start, start, 2)
    pairs[0].margin = 0.5
    with pytest.raises(CallError, match="must be 0: ipo takes none"):
        await one_preference_step(tmp_path, pairs, start, loss="ipo")
    assert (await one_preference_step(tmp_path, pairs, start)).trained


async def test_kto_needs_a_second_prompt(tmp_path, start):
    pairs = sampled_pairs(start, start, 1)
    with pytest.raises(CallError, match="a pair of another prompt"):
        await one_preference_step(tmp_path, pairs, start, loss="kto")


@pytest.mark.parametrize(
    ("settings", "reference", "field"),
    [
        ({"loss": "ppo"}, False, "preference.loss"),
        ({"beta": 0.0}, False, "preference.beta"),
        ({"micro_batch_size": 1}, False, "preference.micro_batch_size"),
        ({"label_smoothing": 0.1}, False, "preference.label_smoothing"),
        ({"loss": "cdpo", "label_smoothing": 0.5}, False, "preference.label_smoothing"),
        ({"loss": "orpo", "nll_coefficient": 1.0}, False, "preference.nll_coefficient"),
        ({"masked_tokens": ["</s>", "no such"]}, False, "preference.masked_tokens[1]"),
        ({"max_tokens": 65}, False, "preference.max_tokens"),
        ({"loss": "kto"}, False, "models"),
        ({"loss": "simpo"}, True, "models"),
    ],
)
async def test_settings_that_cannot_be_are_refused_by_name(tmp_path, start, settings, reference, field):
    models = preference_models(start, start if reference else None)
    async with trainer() as client:
        with pytest.raises(CallError) as caught:
            await client.begin_stage(begin_request(tmp_path, "preference", settings, models=models))
    assert [name for name, _ in caught.value.field_violations] == [field]


async def test_only_a_preference_stage_takes_a_reference(tmp_path, start):
    models = preference_models(start, start)
    async with trainer() as client:
        with pytest.raises(CallError, match="only a preference stage takes a reference"):
            await client.begin_stage(begin_request(tmp_path, "sft", models=models))


async def test_a_reference_that_reads_fewer_tokens_is_refused(tmp_path, start):
    short = write_tiny_model(tmp_path / "short", "llama", context=32)
    models = preference_models(start, None)
    models.append(pb.StageModel(role=pb.MODEL_ROLE_REFERENCE, location=plain(short)))
    async with trainer() as client:
        with pytest.raises(CallError, match="context length must be at least the trained model's, 64"):
            await client.begin_stage(begin_request(tmp_path, "preference", models=models))


def test_every_loss_says_whether_it_has_a_reference():
    assert {name for name, loss in PREFERENCE_LOSSES.items() if not loss.reference} == {"orpo", "simpo"}
