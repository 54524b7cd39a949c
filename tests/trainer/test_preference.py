"""Preference learning over the wire: pairs in, a policy out."""

import math

import pytest
import torch

from services.models import load_causal
from services.sequences import response_logprobs
from services.templates import render_conversation, render_exchange, render_prompt, render_text
from services.trainer.preference_losses import PREFERENCE_LOSSES
from tests.trainer.wiring import (
    OPTIMIZER,
    begin_request,
    conversation,
    header,
    one_preference_step,
    preference_models,
    preference_request,
    sampled_pairs,
    trainer,
)
from trueline import CallError
from trueline.metrics import STEP_NUMBERS
from trueline.v1 import trainer_pb2 as pb
from trueline.v1 import types_pb2

LN_2 = math.log(2)
FAST = {"optimizer": {**OPTIMIZER, "learning_rate": 5e-3, "schedule": "constant"}}
FREE = [name for name, loss in PREFERENCE_LOSSES.items() if not loss.reference]


def models_for(loss, start):
    """The reference of a policy that has not moved, for losses that have one."""
    return None if loss in FREE else start


def without_reference(pairs):
    bare = []
    for pair in pairs:
        copy = pb.PreferencePair()
        copy.CopyFrom(pair)
        for side in (copy.sampled.first, copy.sampled.second):
            side.ClearField("reference_logprobs")
        bare.append(copy)
    return bare


# Step 0


@pytest.mark.parametrize(
    ("loss", "expected"),
    [("dpo", LN_2), ("soft_dpo", LN_2), ("gdpo", LN_2), ("hinge", 1.0), ("ipo", 25.0), ("kto", 0.5)],
)
@pytest.mark.parametrize("given", [True, False])
async def test_a_policy_that_is_its_reference_has_the_known_loss_and_no_margin(
    tmp_path, start, loss, expected, given
):
    pairs = sampled_pairs(start, start, 9)
    pairs = pairs if given else without_reference(pairs)
    found = await one_preference_step(tmp_path, pairs, start, loss=loss, minibatch_size=16)
    tolerance = 1e-4 if given else 1e-12  # the trainer's own reference reads the very same rows
    assert found.metrics["loss"] == pytest.approx(expected, abs=tolerance)
    for name in ("margin_mean", "reward_chosen", "reward_rejected", "kl_implicit_k1", "kl_implicit_k3"):
        assert found.metrics[name] == pytest.approx(0, abs=tolerance), name
    if not given:
        assert found.metrics["accuracy"] == 0.5


# What a step computes


async def test_the_numbers_are_those_of_the_models_own_log_probs(tmp_path, start, reference):
    pairs = sampled_pairs(start, reference, 6, temperature=0.7)
    found = await one_preference_step(tmp_path, pairs, None, temperature=0.7, beta=0.5, evaluate_only=True)
    model = load_causal(start)
    lead, chosen_rewards, k1, right = [], [], [], 0
    for pair in pairs:
        sides = [pair.sampled.first, pair.sampled.second]
        ratios = []
        for side in sides if pair.probability > 0.5 else reversed(sides):
            with torch.no_grad():
                logprobs, _ = response_logprobs(
                    model.model, [list(side.prompt_ids)], [list(side.response_ids)], 0.7, 0
                )
            ratios.append(logprobs.sum().item() - sum(side.reference_logprobs))
        lead.append(0.5 * (ratios[0] - ratios[1]))
        chosen_rewards.append(0.5 * ratios[0])
        k1.append(sum(ratios) / 2)
        right += ratios[0] > ratios[1]
    losses = [math.log1p(math.exp(-each)) for each in lead]
    assert found.metrics["loss"] == pytest.approx(sum(losses) / 6, rel=1e-4)
    assert found.metrics["margin_mean"] == pytest.approx(sum(lead) / 6, rel=1e-4)
    assert found.metrics["reward_chosen"] == pytest.approx(sum(chosen_rewards) / 6, rel=1e-4)
    assert found.metrics["kl_implicit_k1"] == pytest.approx(sum(k1) / 6, rel=1e-4)
    assert found.metrics["accuracy"] == pytest.approx(right / 6)


@pytest.mark.parametrize("loss", PREFERENCE_LOSSES)
async def test_steps_teach_every_loss_the_order_of_the_pairs(tmp_path, start, loss):
    pairs = without_reference(sampled_pairs(start, start, 8))
    models = preference_models(start, models_for(loss, start))
    async with trainer() as client:
        settings = {**FAST, "loss": loss, "epochs": 2}
        await client.begin_stage(begin_request(tmp_path, "preference", settings, models=models))
        before = await client.preference_step(preference_request(pairs, name="before", evaluate_only=True))
        for step in range(4):
            await client.preference_step(preference_request(pairs, step))
        after = await client.preference_step(preference_request(pairs, 4, name="after", evaluate_only=True))
    assert not before.trained and before.step == 0 and after.step == 4
    assert after.metrics["loss"] < before.metrics["loss"]
    # IPO aims at a margin and may overshoot it; the others order all pairs.
    assert after.metrics["accuracy"] >= 0.8
    assert after.metrics["accuracy"] > before.metrics["accuracy"]
    assert after.metrics["margin_mean"] > before.metrics["margin_mean"]
    assert set(after.metrics) <= STEP_NUMBERS.keys()
    assert all(math.isfinite(value) for value in after.metrics.values())


async def test_log_probs_of_the_reference_service_and_of_the_trainers_copy_train_alike(
    tmp_path, start, reference
):
    pairs = sampled_pairs(start, reference, 8)
    given = await one_preference_step(tmp_path, pairs)
    own = await one_preference_step(tmp_path, without_reference(pairs), reference)
    for name in ("loss", "reward_chosen", "kl_implicit_k3", "gradient_norm"):
        assert given.metrics[name] == pytest.approx(own.metrics[name], rel=1e-4), name


async def test_exchanging_the_sides_and_the_label_changes_no_bit(tmp_path, start):
    pairs = sampled_pairs(start, start, 6)
    exchanged = []
    for pair in pairs:
        pair.probability = 0.75 if pair.probability > 0.5 else 0.25
        copy = pb.PreferencePair(probability=1 - pair.probability)
        copy.sampled.first.CopyFrom(pair.sampled.second)
        copy.sampled.second.CopyFrom(pair.sampled.first)
        exchanged.append(copy)
    one = await one_preference_step(tmp_path, pairs, start, loss="soft_dpo")
    other = await one_preference_step(tmp_path, exchanged, start, loss="soft_dpo")
    assert one.weights_sha256 == other.weights_sha256


async def test_a_pairs_weight_is_its_share_of_the_mean(tmp_path, start, reference):
    pairs = sampled_pairs(start, reference, 2)
    alone = [
        (await one_preference_step(tmp_path, [pair], evaluate_only=True)).metrics["loss"] for pair in pairs
    ]
    pairs[0].weight = 3.0
    found = await one_preference_step(tmp_path, pairs, evaluate_only=True)
    assert found.metrics["loss"] == pytest.approx((3 * alone[0] + alone[1]) / 4, rel=1e-5)
    assert alone[0] != pytest.approx(alone[1], rel=1e-2)


async def test_masked_tokens_bear_no_loss(tmp_path, start, reference):
    pairs = sampled_pairs(start, reference, 4)
    for pair in pairs:
        pair.sampled.first.response_ids.append(2)  # </s>
        pair.sampled.first.reference_logprobs.append(-1e-2)
    found = await one_preference_step(tmp_path, pairs, masked_tokens=["</s>", "w7"], evaluate_only=True)
    ids = [
        x for pair in pairs for side in (pair.sampled.first, pair.sampled.second) for x in side.response_ids
    ]
    assert found.metrics["loss_tokens"] == sum(x not in (2, 5 + 7) for x in ids) < len(ids)
    for pair in pairs:  # what the reference thinks of a masked token changes nothing
        for place, token in enumerate(pair.sampled.first.response_ids):
            if token == 2:
                pair.sampled.first.reference_logprobs[place] = -9.0
    chosen = [p.sampled.first if p.probability > 0.5 else p.sampled.second for p in pairs]
    model, logprobs = load_causal(start).model, []
    for side in chosen:
        rows = [list(side.prompt_ids)], [list(side.response_ids)]
        with torch.no_grad():
            of_side = response_logprobs(model, *rows, 1.0, 0)[0][0].tolist()
        logprobs += [x for x, token in zip(of_side, side.response_ids, strict=True) if token not in (2, 12)]
    assert found.metrics["logprob_chosen"] == pytest.approx(sum(logprobs) / 4, rel=1e-5)
    again = await one_preference_step(tmp_path, pairs, masked_tokens=["</s>", "w7"], evaluate_only=True)
    assert dict(again.metrics) == dict(found.metrics)


# Text


async def test_text_is_tokenised_as_a_policy_would_read_and_write_it(tmp_path, start):
    turn = conversation(("user", "w1 w2"))
    written = [
        pb.WrittenPair(text="w1 w2", first="w3 w4", second="w5"),
        pb.WrittenPair(conversation=turn, first="w3 w4", second="w5"),
    ]
    tokenizer = load_causal(start).tokenizer
    messages = [{"role": "user", "content": "w1 w2"}]
    prompts = [render_text(tokenizer, "w1 w2"), render_prompt(tokenizer, messages)]
    sampled = []
    for prompt, pair in zip(prompts, written, strict=True):
        rollouts = []
        for said in (pair.first, pair.second):
            reply = {"role": "assistant", "content": said}
            plain = render_exchange(tokenizer, "w1 w2", said)
            ids = plain if pair.text else render_conversation(tokenizer, [*messages, reply])[0]
            assert ids[: len(prompt)] == prompt and ids[-1] == 2
            sampling = types_pb2.SamplingParameters(temperature=1.0)
            response = ids[len(prompt) :]
            rollouts.append(types_pb2.Rollout(prompt_ids=prompt, response_ids=response, sampling=sampling))
        sampled.append(pb.SampledPair(first=rollouts[0], second=rollouts[1]))
    as_text = [pb.PreferencePair(written=each, probability=1.0) for each in written]
    as_ids = [pb.PreferencePair(sampled=each, probability=1.0) for each in sampled]
    one = await one_preference_step(tmp_path, as_text, start)
    other = await one_preference_step(tmp_path, as_ids, start)
    assert one.weights_sha256 == other.weights_sha256
    assert one.metrics["loss_tokens"] == 2 * (3 + 2)


# All or nothing


async def test_a_stage_goes_on_from_its_checkpoint_bit_for_bit(tmp_path, start):
    pairs = without_reference(sampled_pairs(start, start, 6))
    models = preference_models(start, start)
    digests = []
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "preference", models=models))
        await client.preference_step(preference_request(pairs))
        place = await client.checkpoint(header=header("checkpoint", 1))
        digests.append((await client.preference_step(preference_request(pairs, 1))).weights_sha256)
    async with trainer() as client:
        again = begin_request(tmp_path, "preference", models=models, header=header("again"))
        await client.begin_stage(again)
        await client.restore(header=header("restore"), checkpoint=place)
        digests.append((await client.preference_step(preference_request(pairs, 1))).weights_sha256)
    assert digests[0] == digests[1]


async def test_a_checkpoint_of_another_reference_is_refused(tmp_path, start, reference):
    async with trainer() as client:
        begun = begin_request(tmp_path, "preference", models=preference_models(start, start))
        await client.begin_stage(begun)
        place = await client.checkpoint(header=header("checkpoint"))
        other = preference_models(start, reference)
        await client.begin_stage(begin_request(tmp_path, "preference", models=other, header=header("other")))
        with pytest.raises(CallError) as caught:
            await client.restore(header=header("restore"), checkpoint=place)
    assert caught.value.reason == "other_reference"


async def test_a_published_policy_is_a_plain_directory_that_prefers_what_it_was_taught(tmp_path, start):
    pairs = without_reference(sampled_pairs(start, start, 8))
    async with trainer() as client:
        models = preference_models(start, start)
        await client.begin_stage(begin_request(tmp_path, "preference", {**FAST, "epochs": 4}, models=models))
        await client.preference_step(preference_request(pairs))
        await client.publish(header=header("publish", 1), number=1)
    before, after = load_causal(start), load_causal(tmp_path / "models/out/v000001")
    leads = []
    for pair in pairs:
        sides = [pair.sampled.first, pair.sampled.second]
        sides = sides if pair.probability > 0.5 else sides[::-1]
        gains = []
        for side in sides:
            rows = [list(side.prompt_ids)], [list(side.response_ids)]
            with torch.no_grad():
                new, old = (response_logprobs(m.model, *rows, 1.0, 0)[0].sum() for m in (after, before))
            gains.append((new - old).item())
        leads.append(gains[0] - gains[1])
    assert min(leads) > 0
