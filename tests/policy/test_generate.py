"""Sampling over the wire, with real tiny models: what comes back is what the model says, and repeats."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from services.models import load_causal
from services.sequences import response_logprobs
from tests.model_services import asked, policy_service, sampling
from tests.tiny_models import END, FAMILIES, REPLY, write_tiny_model
from trueline.v1 import policy_pb2
from trueline.v1 import types_pb2 as pb

PROMPTS = [[1, 5, 6, REPLY], [1, 7, REPLY], [1, *range(8, 20), REPLY], [1, 30, REPLY], [1, 31, 32, 33, REPLY]]


def ids_of(reply: policy_pb2.GenerateResponse) -> list[list[int]]:
    return [list(rollout.response_ids) for rollout in reply.rollouts]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.3])
async def test_log_probs_as_sampled_are_those_that_the_trainer_recomputes(
    tmp_path: Path, family: str, temperature: float
) -> None:
    path = write_tiny_model(tmp_path / "m", family)
    async with policy_service(model=path) as (policy, _):
        reply = await policy.generate(
            prompts=asked(*PROMPTS, samples=6),
            sampling=sampling(temperature=temperature, max_new_tokens=20),
        )
        rows = [pb.LogprobRow(prompt_ids=r.prompt_ids, response_ids=r.response_ids) for r in reply.rollouts]
        recomputed = await policy.compute_logprobs(rows=rows, temperature=temperature)
    loaded = load_causal(path)
    prompts = [list(r.prompt_ids) for r in reply.rollouts]
    with torch.no_grad():
        trainers, _ = response_logprobs(loaded.model, prompts, ids_of(reply), temperature, loaded.pad_id)
    assert len({tuple(row) for row in ids_of(reply)}) > 20
    assert recomputed.logprob_kind == pb.LOGPROB_KIND_TEMPERATURE
    for index, rollout in enumerate(reply.rollouts):
        assert rollout.logprob_kind == pb.LOGPROB_KIND_TEMPERATURE
        row = zip(
            rollout.policy_logprobs,
            trainers[index].tolist(),
            recomputed.results[index].logprobs,
            strict=False,
        )
        for sampled, trained, asked_again in row:
            limit = 1e-5 * max(1.0, abs(trained))
            assert abs(sampled - trained) <= limit and abs(asked_again - trained) <= limit


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_row_is_the_same_alone_in_any_batch_and_on_another_replica(
    tmp_path: Path, family: str
) -> None:
    path = write_tiny_model(tmp_path / "m", family)
    params = sampling(max_new_tokens=20, seed=11)
    async with policy_service(model=path) as (one, _), policy_service(model=path) as (two, _):
        whole = ids_of(await one.generate(prompts=asked(*PROMPTS, samples=8), sampling=params))
        backwards = ids_of(await two.generate(prompts=asked(*PROMPTS[::-1], samples=8), sampling=params))
        alone = [
            ids_of(await two.generate(prompts=asked(each, first_sample=sample), sampling=params))[0]
            for each in PROMPTS
            for sample in range(8)
        ]
        shorter = ids_of(
            await two.generate(
                prompts=asked(*PROMPTS, samples=8), sampling=sampling(max_new_tokens=5, seed=11)
            )
        )
        other_seed = ids_of(
            await one.generate(
                prompts=asked(*PROMPTS, samples=8), sampling=sampling(max_new_tokens=20, seed=12)
            )
        )
    assert alone == whole
    assert [row for group in range(4, -1, -1) for row in backwards[8 * group : 8 * group + 8]] == whole
    assert [row[:5] for row in whole] == shorter
    assert other_seed != whole
    assert len({tuple(row) for row in whole}) > 30


async def test_rows_that_leave_the_batch_early_do_not_disturb_the_others(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "m", init_std=0.1)
    params = sampling(max_new_tokens=40, temperature=1.3, seed=4, stop=["w7", "w8"])
    async with policy_service(model=path) as (policy, _):
        whole = await policy.generate(prompts=asked(*PROMPTS, samples=12), sampling=params)
        rows = [(each, sample) for each in PROMPTS for sample in range(12)]
        for rollout, (each, sample) in zip(whole.rollouts, rows, strict=True):
            (alone,) = (
                await policy.generate(prompts=asked(each, first_sample=sample), sampling=params)
            ).rollouts
            assert alone.response_ids == rollout.response_ids
            assert list(alone.policy_logprobs) == pytest.approx(
                list(rollout.policy_logprobs), rel=1e-5, abs=1e-5
            )
    lengths = sorted(len(rollout.response_ids) for rollout in whole.rollouts)
    assert lengths[30] < 20 and lengths[-4] > 30  # or nobody would leave early, or nobody would stay


async def test_the_same_call_repeats_bit_by_bit(tmp_path: Path) -> None:
    async with policy_service(model=write_tiny_model(tmp_path / "m")) as (policy, _):
        request: dict[str, Any] = {
            "prompts": asked(*PROMPTS, samples=4),
            "sampling": sampling(max_new_tokens=20),
        }
        first, second = await policy.generate(**request), await policy.generate(**request)
    assert [r.SerializeToString() for r in first.rollouts] == [r.SerializeToString() for r in second.rollouts]


async def test_tokens_are_drawn_as_often_as_the_model_says(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "m")
    n = 4000
    async with policy_service(model=path) as (policy, _):
        params = sampling(max_new_tokens=1, temperature=1.3)
        reply = await policy.generate(prompts=asked(PROMPTS[0], samples=n), sampling=params)
        top = sampling(max_new_tokens=1, temperature=1.3, top_k=3, top_p=0.9)
        filtered = await policy.generate(prompts=asked(PROMPTS[0], samples=64), sampling=top)
    logits = load_causal(path).model(torch.tensor([PROMPTS[0]])).logits[0, -1].detach()
    expected = (logits / 1.3).softmax(-1).tolist()
    counts = Counter(row[0] for row in ids_of(reply))
    for token, probability in enumerate(expected):
        spread = math.sqrt(n * probability * (1 - probability))
        assert abs(counts[token] - n * probability) <= 4.5 * spread + 1, token
    likeliest = (logits / 1.3).topk(3).indices.tolist()
    assert {row[0] for row in ids_of(filtered)} <= set(likeliest)


async def test_near_zero_temperature_is_what_transformers_decodes_greedily(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "m", seed=5)
    async with policy_service(model=path) as (policy, _):
        params = sampling(temperature=1e-4, max_new_tokens=16)
        reply = await policy.generate(prompts=asked(*PROMPTS), sampling=params)
    loaded = load_causal(path)
    for prompt, row in zip(PROMPTS, ids_of(reply), strict=True):
        theirs = loaded.model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=16)[0]
        assert row == theirs[len(prompt) :].tolist()


async def test_filtered_sampling_declares_processed_log_probs_of_the_kept_set(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "m")
    async with policy_service(model=path) as (policy, _):
        params = sampling(max_new_tokens=1, top_k=2)
        reply = await policy.generate(prompts=asked(PROMPTS[0], samples=16), sampling=params)
    likeliest = load_causal(path).model(torch.tensor([PROMPTS[0]])).logits[0, -1].topk(2)
    expected = dict(zip(likeliest.indices.tolist(), likeliest.values.log_softmax(-1).tolist(), strict=True))
    for rollout in reply.rollouts:
        assert rollout.logprob_kind == pb.LOGPROB_KIND_PROCESSED
        assert rollout.policy_logprobs[0] == pytest.approx(expected[rollout.response_ids[0]], rel=1e-5)


async def test_every_completion_says_why_it_ended_and_keeps_the_id_that_ended_it(tmp_path: Path) -> None:
    async with policy_service(model=write_tiny_model(tmp_path / "m", init_std=0.1)) as (policy, _):
        params = sampling(max_new_tokens=30, temperature=1.3, stop=["w7"])
        reply = await policy.generate(prompts=asked(*PROMPTS, samples=40), sampling=params)
    reasons = Counter(rollout.finish_reason for rollout in reply.rollouts)
    assert min(reasons[r] for r in (pb.FINISH_REASON_END_OF_TEXT, pb.FINISH_REASON_STOP_TEXT)) > 10
    assert reasons[pb.FINISH_REASON_LENGTH] > 10
    for rollout in reply.rollouts:
        ids, words = list(rollout.response_ids), rollout.response_text.split()
        ended, stopped = ids[-1] == END, any(word.startswith("w7") for word in words)
        assert END not in ids[:-1]
        assert not any(word.startswith("w7") for word in words[:-1])
        if rollout.finish_reason == pb.FINISH_REASON_LENGTH:
            assert len(ids) == 30 and not ended and not stopped
        else:
            assert (ended, stopped) == (
                rollout.finish_reason == pb.FINISH_REASON_END_OF_TEXT,
                rollout.finish_reason == pb.FINISH_REASON_STOP_TEXT,
            )
        assert "</s>" not in rollout.response_text
        assert len(rollout.policy_logprobs) == len(ids)


async def test_a_stop_text_may_span_several_tokens(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "m", init_std=0.1)
    async with policy_service(model=path) as (policy, _):
        free = await policy.generate(prompts=asked(PROMPTS[0]), sampling=sampling(max_new_tokens=30, seed=3))
        words = free.rollouts[0].response_text.split()
        stop = f"{words[3]} {words[4]}"
        stopped = await policy.generate(
            prompts=asked(PROMPTS[0]), sampling=sampling(max_new_tokens=30, seed=3, stop=["absent", stop])
        )
    assert stopped.rollouts[0].response_text.split() == words[: words.index(words[3]) + 2]
    assert stopped.rollouts[0].finish_reason == pb.FINISH_REASON_STOP_TEXT


async def test_text_conversation_and_ids_are_the_same_prompt_and_come_back_as_ids(tmp_path: Path) -> None:
    async with policy_service(model=write_tiny_model(tmp_path / "m")) as (policy, _):
        shapes = [[1, 5, 6, REPLY], "<s> w0 w1 <reply>", [(pb.ROLE_USER, "w0 w1")]]
        replies = [await policy.generate(prompts=asked(each), sampling=sampling()) for each in shapes]
    assert [list(reply.rollouts[0].prompt_ids) for reply in replies] == [[1, 5, 6, REPLY]] * 3
    assert ids_of(replies[0]) == ids_of(replies[1]) == ids_of(replies[2])


async def test_rollouts_come_in_the_order_asked_with_their_names(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "m")
    async with policy_service(model=path) as (policy, server):
        prompts = asked([1, 5], [1, 5, 6], samples=2, first_sample=3)
        prompts[0].prompt.prompt_id, prompts[1].prompt.prompt_id = "a", "b"
        params = sampling(seed=2**64 - 1)
        reply = await policy.generate(prompts=prompts, sampling=params)
        version = (await policy.get_policy()).version
    names = [(r.prompt_id, r.sample_index, len(r.prompt_ids)) for r in reply.rollouts]
    assert names == [("a", 3, 2), ("a", 4, 2), ("b", 3, 3), ("b", 4, 3)]
    assert all(r.sampling == params and r.policy_version == version for r in reply.rollouts)
    assert reply.timing.compute_seconds > 0
    count = server.host.registry.get_sample_value
    assert count("trueline_generated_tokens_total") == sum(map(len, ids_of(reply)))
    reasons = ("end_of_text", "length")
    assert sum(count("trueline_rollouts_total", {"finish_reason": r}) or 0 for r in reasons) == 4


async def test_truncation_keeps_the_newest_tokens_and_says_so(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "m", context=16)
    async with policy_service(model=path) as (policy, _):
        long = list(range(5, 25))
        reply = await policy.generate(
            prompts=asked(long, [5, 6]),
            sampling=sampling(max_new_tokens=6),
            prompt_overflow=policy_pb2.PROMPT_OVERFLOW_TRUNCATE,
        )
        kept = await policy.generate(prompts=asked(long[-10:]), sampling=sampling(max_new_tokens=6))
    assert [r.prompt_truncated for r in reply.rollouts] == [True, False]
    assert list(reply.rollouts[0].prompt_ids) == long[-10:]
    assert ids_of(reply)[0] == ids_of(kept)[0]
