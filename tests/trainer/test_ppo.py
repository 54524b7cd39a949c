"""PPO rounds over the wire: scores, KL, budget, critic."""

import math

import pytest
import torch

from services.models import load_causal, load_scalar
from services.sequences import response_logprobs
from tests.trainer.wiring import (
    OPTIMIZER,
    begin_request,
    header,
    one_ppo_step,
    ppo_request,
    rollouts_of,
    trainer,
    two_models,
)
from trueline import CallError
from trueline.metrics import STEP_NUMBERS
from trueline.v1 import trainer_pb2 as pb
from trueline.v1 import types_pb2

FAST = {"policy_optimizer": {**OPTIMIZER, "learning_rate": 5e-3, "schedule": "constant"}}


# Missing scores


def unscored(rollout, **score):
    copy = types_pb2.Rollout()
    copy.CopyFrom(rollout)
    copy.score.Clear()
    if score:
        copy.score.CopyFrom(types_pb2.Score(**score))
    return copy


async def test_rows_without_a_score_leave_weights_and_numbers_bit_identical(tmp_path, start):
    rollouts = rollouts_of(start, start, 12)
    error = types_pb2.ItemError(reason="timeout", message="no answer")
    bad = [
        unscored(rollouts[0]),
        unscored(rollouts[1], error=error),
        unscored(rollouts[2], value=types_pb2.ScoreValue(raw=math.nan, normalised=math.nan)),
        unscored(rollouts[3], value=types_pb2.ScoreValue(raw=1.0, normalised=math.inf)),
    ]
    settings = {"kl_target": 6.0, "kl_horizon": 1000.0, "whiten_rewards": True}
    mixed = await one_ppo_step(
        tmp_path, [bad[0], *rollouts[:5], *bad[1:3], *rollouts[5:], bad[3]], **settings
    )
    alone = await one_ppo_step(tmp_path, rollouts, **settings)
    assert [(row.row, row.reason) for row in mixed.excluded] == [
        (0, "score_missing"),
        (6, "score_failed"),
        (7, "score_not_finite"),
        (15, "score_not_finite"),
    ]
    assert "timeout: no answer" in mixed.excluded[1].message
    assert mixed.weights_sha256 == alone.weights_sha256
    assert {**mixed.metrics, "excluded": 0} == dict(alone.metrics)


@pytest.mark.parametrize("outlier", [1e25, -1e39])
async def test_a_score_that_no_loss_can_square_is_left_out_unless_the_clip_holds_it(tmp_path, start, outlier):
    rollouts = rollouts_of(start, start, 12)
    odd = unscored(rollouts[3], value=types_pb2.ScoreValue(raw=outlier, normalised=outlier))
    mixed = await one_ppo_step(tmp_path, [*rollouts, odd])
    alone = await one_ppo_step(tmp_path, rollouts)
    assert [(row.row, row.reason) for row in mixed.excluded] == [(12, "score_not_finite")]
    assert mixed.weights_sha256 == alone.weights_sha256
    clipped = await one_ppo_step(tmp_path, [*rollouts, odd], score_clip=5.0)
    assert clipped.trained and not clipped.excluded


async def test_too_many_missing_scores_refuse_the_step(tmp_path, start):
    rollouts = rollouts_of(start, start, 10)
    rollouts[:2] = [unscored(each) for each in rollouts[:2]]
    with pytest.raises(
        CallError, match="2 of 10 rollouts have no usable score; max_missing_share is 0.1"
    ) as caught:
        await one_ppo_step(tmp_path, rollouts, max_missing_share=0.1)
    assert caught.value.reason == "too_many_missing"
    assert (await one_ppo_step(tmp_path, rollouts[1:], max_missing_share=0.2)).trained


# What a round does


async def test_a_step_makes_better_responses_likelier_and_worse_ones_less_likely(tmp_path, start):
    rollouts = rollouts_of(start, start, 16, lengths=[4] * 16)
    for index, rollout in enumerate(rollouts):
        rollout.finish_reason = types_pb2.FINISH_REASON_END_OF_TEXT
        value = 1.0 if index % 2 else -1.0
        rollout.score.CopyFrom(types_pb2.Score(value=types_pb2.ScoreValue(raw=value, normalised=value)))
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "ppo", FAST))
        await client.ppo_step(ppo_request(rollouts))
        published = await client.publish(header=header("publish", 1), number=1)
    model = load_causal(published.location.uri and tmp_path / "models/out/v000001").model
    gains = []
    for rollout in rollouts:
        with torch.no_grad():
            new, _ = response_logprobs(
                model, [list(rollout.prompt_ids)], [list(rollout.response_ids)], 1.0, 0
            )
        gains.append(new.sum().item() - sum(rollout.policy_logprobs))
    assert sum(gains[1::2]) > 0 > sum(gains[0::2])


async def test_every_number_is_finite_and_explained(tmp_path, start, reference):
    result = await one_ppo_step(
        tmp_path, rollouts_of(start, reference, 9), score_clip=0.2, entropy_coefficient=0.1
    )
    assert set(result.metrics) <= STEP_NUMBERS.keys()
    assert all(math.isfinite(value) for value in result.metrics.values())
    assert result.metrics["score_clipped_share"] > 0
    assert result.metrics["truncated_share"] == pytest.approx(3 / 9)


async def test_the_kl_is_the_sum_over_a_sequence_averaged_over_the_rollouts(tmp_path, start, reference):
    rollouts = rollouts_of(start, reference, 9)
    result = await one_ppo_step(tmp_path, rollouts, kl_coefficient=0.0)
    k1 = [sum(rollout.policy_logprobs) - sum(rollout.reference_logprobs) for rollout in rollouts]
    assert result.metrics["kl_reference_k1"] == pytest.approx(sum(k1) / 9, rel=1e-5)
    tokens = sum(len(rollout.response_ids) for rollout in rollouts)
    assert result.metrics["kl_reference_k1_per_token"] == pytest.approx(sum(k1) / tokens, rel=1e-5)
    k3 = [
        math.exp(r - p) - 1 - (r - p)
        for rollout in rollouts
        for p, r in zip(rollout.policy_logprobs, rollout.reference_logprobs, strict=True)
    ]
    assert result.metrics["kl_reference_k3"] == pytest.approx(sum(k3) / 9, rel=1e-4)


async def test_a_rollouts_reward_is_its_score_less_penalty_and_kl(tmp_path, start, reference):
    rollouts = rollouts_of(start, reference, 9)
    result = await one_ppo_step(tmp_path, rollouts, kl_coefficient=0.1, missing_end_penalty=2.0)
    scores = sum(each.score.value.normalised for each in rollouts) / 9
    expected = scores - 2.0 * 3 / 9 - 0.1 * result.metrics["kl_reference_k1"]
    assert result.metrics["reward_mean"] == pytest.approx(expected, rel=1e-5)


async def test_the_clip_holds_the_scores_and_cannot_swallow_the_penalty(tmp_path, start):
    rollouts = rollouts_of(start, start, 9)
    limits = {"score_clip": 0.2, "missing_end_penalty": 2.0, "kl_coefficient": 0.0}
    result = await one_ppo_step(tmp_path, rollouts, **limits)
    scores = [each.score.value.normalised for each in rollouts]
    clipped = [max(-0.2, min(0.2, score)) for score in scores]
    assert result.metrics["reward_mean"] == pytest.approx(sum(clipped) / 9 - 2.0 * 3 / 9, rel=1e-5)
    assert result.metrics["score_mean"] == pytest.approx(sum(scores) / 9, rel=1e-5)
    moved = sum(a != b for a, b in zip(scores, clipped, strict=True))
    assert result.metrics["score_clipped_share"] == pytest.approx(moved / 9)


@pytest.mark.parametrize("warm_up", [0, 1])
async def test_the_adaptive_coefficient_moves_with_rounds_that_train_the_policy(
    tmp_path, start, reference, warm_up
):
    rollouts = rollouts_of(start, reference, 9)
    async with trainer() as client:
        settings = {"kl_target": 6.0, "kl_horizon": 100.0, "kl_coefficient": 0.1}
        settings["critic_warmup_rounds"] = warm_up
        await client.begin_stage(begin_request(tmp_path, "ppo", settings))
        first = await client.ppo_step(ppo_request(rollouts))
        published = await client.publish(header=header("publish", 1), number=1)
        for rollout in rollouts:
            rollout.policy_version.CopyFrom(published.location.version)
        second = await client.ppo_step(ppo_request(rollouts, 1))
    assert first.metrics["kl_coefficient"] == 0.1
    error = 0 if warm_up else max(-0.2, min(0.2, first.metrics["kl_reference_k1"] / 6 - 1))
    assert second.metrics["kl_coefficient"] == pytest.approx(0.1 * (1 + error * 9 / 100), rel=1e-12)


async def test_an_adaptive_coefficient_of_0_is_refused_since_it_would_stay_there(tmp_path, start):
    async with trainer() as client:
        with pytest.raises(CallError, match="it moves by factors, and 0 stays 0"):
            settings = {"kl_target": 6.0, "kl_horizon": 100.0, "kl_coefficient": 0.0}
            await client.begin_stage(begin_request(tmp_path, "ppo", settings))


async def test_warm_up_rounds_train_the_critic_alone(tmp_path, start):
    rollouts = rollouts_of(start, start, 9)
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "ppo", {"critic_warmup_rounds": 1}))
        before = (await client.get_state()).weights_sha256
        result = await client.ppo_step(ppo_request(rollouts))
        await client.publish(header=header("publish", 1), number=1)
    assert result.trained and result.weights_sha256 != before
    assert "value_loss" in result.metrics and "policy_loss" not in result.metrics
    started, published = (load_causal(path).model for path in (start, tmp_path / "models/out/v000001"))
    for name, parameter in started.named_parameters():
        assert torch.equal(parameter, published.get_parameter(name))


async def test_the_entropy_bonus_raises_the_entropy(tmp_path, start):
    rollouts = rollouts_of(start, start, 9)
    entropies = []
    for coefficient in (0.0, 5.0):
        async with trainer() as client:
            await client.begin_stage(
                begin_request(
                    tmp_path,
                    "ppo",
                    {**FAST, "entropy_coefficient": coefficient},
                    output_model=f"e{coefficient}",
                )
            )
            await client.ppo_step(ppo_request(rollouts))
            published = await client.publish(header=header("publish", 1), number=1)
            for rollout in rollouts:
                rollout.policy_version.CopyFrom(published.location.version)
            entropies.append((await client.ppo_step(ppo_request(rollouts, 1))).metrics["entropy"])
        rollouts = rollouts_of(start, start, 9)
    assert entropies[1] > entropies[0] + 0.05


# The KL budget


async def test_at_the_hard_budget_nothing_trains_now_or_later(tmp_path, start, reference):
    rollouts = rollouts_of(start, reference, 9)
    async with trainer() as client:
        await client.begin_stage(
            begin_request(tmp_path, "ppo", {"kl_budget_soft": 0.1, "kl_budget_hard": 0.2})
        )
        before = await client.get_state()
        stopped = await client.ppo_step(ppo_request(rollouts))
        assert stopped.kl_budget == pb.KL_BUDGET_STOP and not stopped.trained
        assert stopped.metrics["kl_reference_k1"] >= 0.2 and "policy_loss" not in stopped.metrics
        after = await client.get_state()
        assert (after.step, after.weights_sha256) == (0, before.weights_sha256)
        good = rollouts_of(start, start, 9)
        with pytest.raises(CallError) as caught:
            await client.ppo_step(ppo_request(good, name="another"))
        assert caught.value.reason == "kl_budget_stopped"
        place = await client.checkpoint(header=header("checkpoint"))
        await client.begin_stage(
            begin_request(
                tmp_path, "ppo", {"kl_budget_soft": 0.1, "kl_budget_hard": 0.2}, header=header("anew")
            )
        )
        await client.restore(header=header("restore"), checkpoint=place)
        with pytest.raises(CallError) as caught:
            await client.ppo_step(ppo_request(good, name="a third"))
        assert caught.value.reason == "kl_budget_stopped"


@pytest.mark.parametrize(
    ("soft", "hard", "budget"), [(0.1, 0.0, pb.KL_BUDGET_WARN), (900.0, 1000.0, pb.KL_BUDGET_OK), (0, 0, 0)]
)
async def test_a_soft_budget_warns_and_trains(tmp_path, start, reference, soft, hard, budget):
    result = await one_ppo_step(
        tmp_path, rollouts_of(start, reference, 9), kl_budget_soft=soft, kl_budget_hard=hard
    )
    assert result.trained and result.kl_budget == budget


# Where the critic comes from


async def test_the_critic_starts_from_the_reward_model_where_their_tokens_agree(tmp_path, start):
    async with trainer() as client:
        begun = await client.begin_stage(begin_request(tmp_path, "ppo", models=two_models(tmp_path)))
        critic = client.servicer.trainer._stage.critic.loaded.model
    assert (begun.critic_origin, begun.critic_origin_reason) == ("reward", "")
    assert torch.equal(critic.score.weight, load_scalar(tmp_path / "scalar").model.score.weight)


async def test_the_critic_starts_from_the_policy_where_the_reward_model_reads_other_tokens(tmp_path, start):
    models = two_models(tmp_path)
    tokenizer = tmp_path / "scalar/tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"w7"', '"w700"'))
    async with trainer() as client:
        begun = await client.begin_stage(begin_request(tmp_path, "ppo", models=models))
    assert begun.critic_origin == "trained"
    assert begun.critic_origin_reason == "the reward model's tokenizer is not the policy's"


async def test_a_critic_from_a_normalised_reward_model_starts_in_its_unit(tmp_path, start):
    samples = [pb.AnsweredPrompt(text="w1 w2", response=f"w{index} w3") for index in range(6)]
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "reward_model", output_model="reward"))
        fitted = await client.fit_normalisation(header=header("fit"), samples=samples, target_stddev=1.0)
        published = await client.publish(header=header("publish"), number=1)
        models = [
            two_models(tmp_path)[0],
            pb.StageModel(role=pb.MODEL_ROLE_REWARD, location=published.location),
        ]
        await client.begin_stage(begin_request(tmp_path, "ppo", models=models, header=header("ppo")))
        head = client.servicer.trainer._stage.critic.loaded.model.score.weight
        raw = load_scalar(tmp_path / "models/reward/v000001").model.score.weight
    torch.testing.assert_close(head, fitted.gain * raw)
