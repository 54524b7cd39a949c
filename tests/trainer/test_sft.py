"""Supervised fine-tuning over the wire, and the tokens that bear its loss."""

import hashlib

import pytest
import torch

from services.progress import ProgressFeed
from services.trainer.batches import SftRow, sft_rectangle
from services.trainer.device import Compute
from services.trainer.records import Demonstration
from services.trainer.stages import build_stage
from services.trainer.wire import plan_from_pb
from tests.trainer.wiring import begin_request, conversation, header, sft_request, sft_rows, trainer
from trueline import CallError
from trueline.v1 import trainer_pb2 as pb
from trueline.v1 import types_pb2


def stage_in(tmp_path, threads=1, **settings):
    request = begin_request(tmp_path, "sft", settings)
    return build_stage(plan_from_pb(request), Compute(torch.device("cpu"), threads), ProgressFeed())[0]


@pytest.mark.known_answer("H4")
def test_only_the_response_bears_loss_and_padding_never():
    prompt, response, pad_to = [5, 6], [7, 8, 2], 7
    row = SftRow(prompt + response, [False, False, True, True, True])
    longer = SftRow([9] * pad_to, [True] * pad_to)
    ids_BT, mask_BT = sft_rectangle([row, longer], pad_id=0)
    assert ids_BT[0].tolist() == [5, 6, 7, 8, 2, 0, 0]
    assert torch.where(mask_BT[0], ids_BT[0], -100).tolist() == [-100, -100, 7, 8, 2, -100, -100]
    assert row.loss_tokens == int(mask_BT[0].sum()) == 3
    # After the shift logits 1, 2 and 3 predict 7, 8 and 2.
    assert mask_BT[0, 1:].nonzero().flatten().tolist() == [1, 2, 3]


def test_every_assistant_turn_of_a_conversation_bears_loss_and_no_other(tmp_path):
    stage = stage_in(tmp_path)
    turns = [("user", "w0 w1"), ("assistant", "w2"), ("user", "w3"), ("assistant", "w4 w5")]
    messages = [{"role": role, "content": content} for role, content in turns]
    rows, excluded = stage.encode([Demonstration(messages=messages)])
    tokens = stage.loaded.tokenizer.convert_ids_to_tokens(rows[0].ids)
    learned = [token for token, bears in zip(tokens, rows[0].bears_loss, strict=True) if bears]
    assert learned == ["w2", "</s>", "w4", "w5", "</s>"]
    assert not excluded


def test_every_token_of_a_text_bears_loss_and_so_does_its_end(tmp_path):
    rows, _ = stage_in(tmp_path).encode([Demonstration(text="w1 w2 w3")])
    assert rows[0] == SftRow([6, 7, 8, 2], [True] * 4)


def test_with_loss_on_all_the_customer_bears_loss_too(tmp_path):
    messages = [{"role": "user", "content": "w0"}, {"role": "assistant", "content": "w1"}]
    rows, _ = stage_in(tmp_path, loss_on="all").encode([Demonstration(messages=messages)])
    assert all(rows[0].bears_loss)


@pytest.mark.parametrize("length, learned", [(2, ["w1", "</s>"]), (3, ["w2"]), (1, ["<s>", "w0"])])
def test_with_loss_on_last_only_the_last_message_bears_loss_whoever_says_it(tmp_path, length, learned):
    turns = [("user", "w0"), ("assistant", "w1"), ("user", "w2")]
    messages = [{"role": role, "content": content} for role, content in turns[:length]]
    stage = stage_in(tmp_path, loss_on="last")
    rows, _ = stage.encode([Demonstration(messages=messages)])
    tokens = stage.loaded.tokenizer.convert_ids_to_tokens(rows[0].ids)
    assert [token for token, bears in zip(tokens, rows[0].bears_loss, strict=True) if bears] == learned


def gradients(stage, rows):
    stage.learner.forget_moments()
    stage.accumulate(rows)
    return torch.cat([p.grad.flatten() for p in stage.learner.parameters.values()])


@pytest.mark.parametrize("threads", [1, 2])
def test_accumulated_micro_batches_have_the_gradient_of_the_whole_minibatch(tmp_path, threads):
    whole, parts = stage_in(tmp_path, micro_batch_size=64), stage_in(tmp_path, threads, micro_batch_size=3)
    texts = [Demonstration(text=" ".join(["w1"] * n)) for n in (1, 12, 3, 7, 2, 9, 4)]
    rows, _ = whole.encode(texts)
    expected, found = gradients(whole, rows), gradients(parts, rows)
    assert (found - expected).norm() <= 1e-5 * expected.norm()


async def test_steps_lower_the_loss_on_the_assistants_words(tmp_path):
    rows = sft_rows(12)
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "sft"))
        losses = [(await client.sft_step(sft_request(rows, step))).metrics["loss"] for step in range(6)]
        assert losses[-1] < 0.9 * losses[0]
        assert (await client.get_state()).step == 6


async def test_a_step_says_how_much_it_trained(tmp_path):
    rows = [pb.SftRow(conversation=conversation(("user", "w1 w2"), ("assistant", "w3"))) for _ in range(5)]
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "sft"))
        result = await client.sft_step(sft_request(rows))
    assert result.trained and result.step == 1 and not result.excluded
    expected = {"rows": 5, "excluded": 0, "tokens": 30, "loss_tokens": 10, "updates": 2}
    assert {name: result.metrics[name] for name in expected} == expected
    assert result.timing.compute_seconds > 0


async def test_rows_that_cannot_train_are_left_out_with_a_reason_and_change_nothing(tmp_path):
    good = sft_rows(5)
    bad = [
        pb.SftRow(text=" ".join(["w1"] * 70)),
        pb.SftRow(),
        pb.SftRow(conversation=conversation(("user", "w1"))),
    ]
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "sft"))
        mixed = await client.sft_step(sft_request([bad[0], *good[:2], bad[1], *good[2:], bad[2]]))
        assert [(row.row, row.reason) for row in mixed.excluded] == [
            (0, "too_long"),
            (3, "empty"),
            (7, "empty"),
        ]
        assert "71 tokens; the limit is 64" in mixed.excluded[0].message
        await client.begin_stage(begin_request(tmp_path, "sft", header=header("again")))
        alone = await client.sft_step(sft_request(good))
    assert mixed.weights_sha256 == alone.weights_sha256


async def test_a_batch_without_a_usable_row_is_a_step_that_changes_nothing(tmp_path):
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "sft"))
        first = await client.sft_step(sft_request(sft_rows(5)))
        nothing = await client.sft_step(sft_request([pb.SftRow(text=" ".join(["w1"] * 70))], 1))
        assert (nothing.step, nothing.trained, nothing.weights_sha256) == (2, True, first.weights_sha256)
        assert [(row.row, row.reason) for row in nothing.excluded] == [(0, "too_long")]
        assert (nothing.metrics["rows"], nothing.metrics["updates"]) == (0, 0)
        assert "loss" not in nothing.metrics
        third = await client.sft_step(sft_request(sft_rows(5), 2))
        assert third.weights_sha256 != first.weights_sha256


async def test_a_batch_without_a_row_is_the_callers_mistake(tmp_path):
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "sft"))
        with pytest.raises(CallError) as caught:
            await client.sft_step(sft_request([]))
    assert caught.value.code.name == "INVALID_ARGUMENT"
    assert caught.value.field_violations[0][0] == "batch.rows"


async def test_a_batch_in_a_file_trains_as_one_in_the_message(tmp_path):
    rows = sft_rows(6)
    data = pb.SftBatch(rows=rows).SerializeToString()
    (tmp_path / "batch.pb").write_bytes(data)
    artifact = types_pb2.Artifact(uri=str(tmp_path / "batch.pb"), sha256=hashlib.sha256(data).hexdigest())
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "sft"))
        by_file = await client.sft_step(header=header("s"), artifact=artifact)
        await client.begin_stage(begin_request(tmp_path, "sft", header=header("again")))
        inline = await client.sft_step(sft_request(rows))
    assert by_file.weights_sha256 == inline.weights_sha256


@pytest.mark.parametrize(
    ("uri", "sha256", "field"),
    [
        ("missing.pb", "0" * 64, "artifact.uri"),
        ("batch.pb", "0" * 64, "artifact.sha256"),
        (None, "", "artifact.uri"),
    ],
)
async def test_a_file_that_is_missing_or_another_is_refused(tmp_path, uri, sha256, field):
    (tmp_path / "batch.pb").write_bytes(pb.SftBatch(rows=sft_rows(2)).SerializeToString())
    artifact = types_pb2.Artifact(uri=str(tmp_path / uri) if uri else "relative/batch.pb", sha256=sha256)
    async with trainer() as client:
        await client.begin_stage(begin_request(tmp_path, "sft"))
        with pytest.raises(CallError) as caught:
            await client.sft_step(header=header("s"), artifact=artifact)
    assert caught.value.field_violations[0][0] == field


async def test_max_tokens_beyond_the_models_context_is_refused(tmp_path):
    async with trainer() as client:
        with pytest.raises(CallError) as caught:
            await client.begin_stage(begin_request(tmp_path, "sft", {"max_tokens": 65}))
    assert caught.value.field_violations[0][0] == "sft.max_tokens"
