"""Reward modelling over the wire: comparisons in, a scalar model out."""

import math
from pathlib import Path

import pytest
import torch

from services.models import load_scalar
from services.progress import ProgressFeed
from services.sequences import pad_right
from services.templates import render_exchange
from services.trainer.bradley_terry import group_loss
from services.trainer.device import Compute
from services.trainer.reward_model import Measured
from services.trainer.stages import build_stage
from services.trainer.wire import groups_from_pb, plan_from_pb
from services.weights import read_manifest
from tests.trainer.wiring import (
    begin_request,
    comparison_groups,
    conversation,
    header,
    reward_request,
    trainer,
)
from trueline import CallError
from trueline.v1 import trainer_pb2 as pb


def stage_in(tmp_path, threads=1, **settings):
    request = begin_request(tmp_path, "reward_model", settings)
    return build_stage(plan_from_pb(request), Compute(torch.device("cpu"), threads), ProgressFeed())[0]


def encoded(stage, groups):
    return stage._encode(groups_from_pb(pb.ComparisonBatch(groups=groups)), ProgressFeed())[0]


def gradients(stage, groups):
    stage.learner.forget_moments()
    stage.accumulate(groups, Measured())
    return torch.cat([p.grad.flatten() for p in stage.learner.parameters.values() if p.grad is not None])


@pytest.mark.parametrize("threads", [1, 2])
def test_accumulated_micro_batches_have_the_gradient_of_the_whole_minibatch(tmp_path, threads):
    whole, parts = stage_in(tmp_path, micro_batch_size=64), stage_in(tmp_path, threads, micro_batch_size=4)
    groups = encoded(whole, comparison_groups(5, responses=3) + comparison_groups(2, responses=2, seed=1))
    expected, found = gradients(whole, groups), gradients(parts, groups)
    assert (found - expected).norm() <= 1e-5 * expected.norm()


def test_every_pair_of_a_prompt_comes_from_one_forward_per_response(tmp_path):
    stage = stage_in(tmp_path, micro_batch_size=64)
    seen = []
    forward = stage.loaded.model.forward
    stage.loaded.model.forward = lambda ids_BT, mask_BT: seen.append(len(ids_BT)) or forward(ids_BT, mask_BT)
    stage.accumulate(encoded(stage, comparison_groups(4, responses=4)), Measured())
    assert seen == [16]  # 4 prompts of 4 responses, though there are 24 pairs


def test_a_group_larger_than_a_micro_batch_is_not_torn_apart(tmp_path):
    stage = stage_in(tmp_path, micro_batch_size=3)
    packed = stage._micro_batches(encoded(stage, comparison_groups(3, responses=5)))
    assert sorted(map(len, packed)) == [1, 1, 1]


async def test_the_loss_is_that_of_the_models_own_scores_averaged_over_prompts(tmp_path):
    groups = comparison_groups(3)
    groups[0].preferences[0].probability = 0.7
    groups[1].preferences[0].margin = 0.5
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "reward_model"))
        measured = await client.reward_model_step(reward_request(groups, evaluate_only=True))
    stage = stage_in(tmp_path)  # the same seed draws the same head
    losses = []
    for group in groups:
        rows = [render_exchange(stage.loaded.tokenizer, group.text, each) for each in group.responses]
        with torch.no_grad():
            rewards_K = stage.loaded.model(*pad_right(rows, 0))
        names = ("first", "second", "probability", "margin")
        tensors = [torch.tensor([getattr(x, name) for x in group.preferences]) for name in names]
        losses.append(group_loss(rewards_K, *tensors, centering_coefficient=0.01).item())
    assert measured.metrics["loss"] == pytest.approx(sum(losses) / 3, rel=1e-5)


async def test_steps_teach_the_order_of_the_comparisons(tmp_path):
    groups = comparison_groups(16)
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "reward_model"))
        before = await client.reward_model_step(reward_request(groups, name="before", evaluate_only=True))
        for step in range(8):
            result = await client.reward_model_step(reward_request(groups, step))
        after = await client.reward_model_step(reward_request(groups, 8, name="after", evaluate_only=True))
    assert after.metrics["accuracy"] >= 0.95 > 0.8 > before.metrics["accuracy"]
    assert after.metrics["loss"] < before.metrics["loss"]
    assert after.metrics["margin_mean"] > 0 and result.metrics["comparisons"] == 48


async def test_measuring_changes_neither_weights_nor_step(tmp_path):
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "reward_model"))
        before = await client.get_state()
        result = await client.reward_model_step(reward_request(comparison_groups(4), evaluate_only=True))
        assert not result.trained and result.step == 0
        assert result.weights_sha256 == before.weights_sha256 == (await client.get_state()).weights_sha256
        assert "gradient_norm" not in result.metrics


async def test_labels_without_a_better_side_do_not_count_for_accuracy(tmp_path):
    groups = comparison_groups(2, responses=2)
    for group in groups:
        group.preferences[0].probability = 0.5
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "reward_model"))
        result = await client.reward_model_step(reward_request(groups, evaluate_only=True))
    assert "accuracy" not in result.metrics and "margin_mean" not in result.metrics
    assert math.isfinite(result.metrics["loss"])


async def test_a_group_that_is_too_long_is_left_out_and_changes_nothing(tmp_path):
    good = comparison_groups(5)
    long = pb.ComparisonGroup(text="w1 " * 70, responses=["w1", "w2"], preferences=[pb.Preference(second=1)])
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "reward_model"))
        mixed = await client.reward_model_step(reward_request([*good[:2], long, *good[2:]]))
        assert [(row.row, row.reason) for row in mixed.excluded] == [(2, "too_long")]
        await client.begin_stage(begin_request(tmp_path, "reward_model", header=header("again")))
        alone = await client.reward_model_step(reward_request(good))
    assert mixed.weights_sha256 == alone.weights_sha256


async def test_of_groups_that_are_all_too_long_nothing_trains_and_only_counts_are_measured(tmp_path):
    long = pb.ComparisonGroup(text="w1 " * 70, responses=["w1", "w2"], preferences=[pb.Preference(second=1)])
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "reward_model"))
        before = await client.get_state()
        measured = reward_request([long], name="measured")
        measured.evaluate_only = True
        for request in (measured, reward_request([long])):
            result = await client.reward_model_step(request)
            assert result.weights_sha256 == before.weights_sha256 and len(result.excluded) == 1
            assert (result.metrics["rows"], result.metrics["comparisons"]) == (0, 0)
            assert "loss" not in result.metrics and "reward_mean" not in result.metrics
        assert result.trained and result.step == 1 and result.metrics["updates"] == 0


def spoil(**fields):
    def change(group):
        for name, value in fields.items():
            setattr(group.preferences[0], name, value)

    return change


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (spoil(first=9), "batch.groups[1].preferences[0].first"),
        (spoil(first=1, second=1), "batch.groups[1].preferences[0].second"),
        (spoil(probability=1.2), "batch.groups[1].preferences[0].probability"),
        (spoil(probability=math.nan), "batch.groups[1].preferences[0].probability"),
        (spoil(margin=-1), "batch.groups[1].preferences[0].margin"),
        (lambda group: group.ClearField("preferences"), "batch.groups[1].preferences"),
        (lambda group: group.ClearField("text"), "batch.groups[1].prompt"),
        (lambda group: group.responses.__delitem__(slice(1, None)), "batch.groups[1].responses"),
    ],
)
async def test_a_malformed_comparison_is_refused_by_name(tmp_path, change, field):
    groups = comparison_groups(3)
    change(groups[1])
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "reward_model"))
        with pytest.raises(CallError) as caught:
            await client.reward_model_step(reward_request(groups))
    assert caught.value.code.name == "INVALID_ARGUMENT"
    assert [name for name, _ in caught.value.field_violations] == [field]


def answered(count):
    samples = [pb.AnsweredPrompt(text="w1 w2", response=f"w{index} w3") for index in range(count - 1)]
    turn = conversation(("user", "w4"))
    return [*samples, pb.AnsweredPrompt(conversation=turn, response="w5")]


async def test_fitted_scores_have_the_target_mean_and_spread_and_travel_in_the_manifest(tmp_path):
    samples = answered(12)
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "reward_model"))
        await client.reward_model_step(reward_request(comparison_groups(4)))
        fitted = await client.fit_normalisation(
            header=header("fit", 1), samples=samples, target_mean=0.5, target_stddev=2.0
        )
        published = await client.publish(header=header("publish", 1), number=1)
    path = tmp_path / "models/out/v000001"
    assert published.location.uri == str(path)
    manifest = read_manifest(path)
    assert manifest.extra["normalisation"]["gain"] == fitted.gain
    assert manifest.extra["normalisation"]["bias"] == fitted.bias
    loaded = load_scalar(path)
    prompts = [x.text or [{"role": "user", "content": "w4"}] for x in samples]
    rows = [render_exchange(loaded.tokenizer, p, x.response) for p, x in zip(prompts, samples, strict=True)]
    with torch.no_grad():
        raw_N = loaded.model(*pad_right(rows, loaded.pad_id)).double()
    normalised_N = fitted.gain * raw_N + fitted.bias
    assert normalised_N.mean().item() == pytest.approx(0.5, abs=1e-4)
    assert normalised_N.std(correction=0).item() == pytest.approx(2.0, rel=1e-4)
    assert raw_N.mean().item() == pytest.approx(fitted.raw_mean, rel=1e-4)


async def test_length_control_leaves_scores_that_length_does_not_explain(tmp_path):
    responses = [" ".join(["w3", "w5", "w7", "w2", "w6"][: 1 + index % 5]) for index in range(12)]
    samples = [pb.AnsweredPrompt(text=f"w{index} w2", response=text) for index, text in enumerate(responses)]
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "reward_model"))
        fitted = await client.fit_normalisation(
            header=header("fit"), samples=samples, target_stddev=2.0, length_controlled=True
        )
        published = await client.publish(header=header("publish"), number=1)
        same = [pb.AnsweredPrompt(text=f"w{index}", response="w3") for index in range(4)]
        with pytest.raises(CallError, match="the 4 lengths do not vary"):
            await client.fit_normalisation(
                header=header("again"), samples=same, target_stddev=1.0, length_controlled=True
            )
    path = Path(published.location.uri)
    assert read_manifest(path).extra["normalisation"]["length_coefficient"] == fitted.length_coefficient != 0
    loaded = load_scalar(path)
    rows = [render_exchange(loaded.tokenizer, each.text, each.response) for each in samples]
    with torch.no_grad():
        raw_N = loaded.model(*pad_right(rows, loaded.pad_id)).double()
    lengths_N = torch.tensor([len(text.split()) for text in responses]).double()
    normalised_N = fitted.gain * raw_N + fitted.bias + fitted.length_coefficient * lengths_N
    assert normalised_N.mean().item() == pytest.approx(0.0, abs=1e-4)
    assert normalised_N.std(correction=0).item() == pytest.approx(2.0, rel=1e-4)
    assert torch.corrcoef(torch.stack([normalised_N, lengths_N]))[0, 1].item() == pytest.approx(0, abs=1e-4)


async def test_a_normalisation_does_not_outlive_the_weights_it_was_fitted_on(tmp_path):
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "reward_model"))
        await client.fit_normalisation(header=header("fit"), samples=answered(4), target_stddev=1.0)
        await client.reward_model_step(reward_request(comparison_groups(4)))
        await client.publish(header=header("publish", 1), number=1)
    assert "normalisation" not in read_manifest(tmp_path / "models/out/v000001").extra


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"samples": [], "target_stddev": 1.0}, "samples"),
        ({"samples": answered(3), "target_stddev": 0.0}, "target_stddev"),
        ({"samples": answered(3), "target_stddev": 1.0, "target_mean": math.inf}, "target_mean"),
        (
            {"samples": [pb.AnsweredPrompt(text="w1 " * 80, response="w1")], "target_stddev": 1.0},
            "samples",
        ),
    ],
)
async def test_a_normalisation_that_cannot_be_fitted_is_refused_by_name(tmp_path, fields, field):
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "reward_model"))
        with pytest.raises(CallError) as caught:
            await client.fit_normalisation(header=header("fit"), **fields)
    assert caught.value.field_violations[0][0] == field


async def test_a_published_reward_model_is_trained_on_from_its_own_head(tmp_path):
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "reward_model"))
        await client.reward_model_step(reward_request(comparison_groups(4)))
        published = await client.publish(header=header("publish", 1), number=1)
        weights = (await client.get_state()).weights_sha256
        again = [pb.StageModel(role=pb.MODEL_ROLE_TRAINED, location=published.location)]
        await client.begin_stage(
            begin_request(tmp_path, "reward_model", models=again, seed=8, header=header("b"))
        )
        assert (await client.get_state()).weights_sha256 == weights
