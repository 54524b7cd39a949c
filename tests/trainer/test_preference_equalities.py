"""The equalities that guard preference learning: what must not change a step's gradient does not."""

import pytest
import torch

from services.progress import ProgressFeed
from services.trainer.device import Compute
from services.trainer.preference_losses import PREFERENCE_LOSSES
from services.trainer.preference_wire import pairs_from_pb
from services.trainer.stages import build_stage
from services.trainer.wire import plan_from_pb
from tests.trainer.wiring import begin_request, one_preference_step, preference_models, sampled_pairs
from trueline.v1 import trainer_pb2 as pb


def stage_in(tmp_path, reference, threads=1, **settings):
    """A stage whose policy is further from the reference than KTO's baseline is from 0."""
    row = PREFERENCE_LOSSES[settings.get("loss", "dpo")]
    models = preference_models(reference, tmp_path / "start" if row.reference else None)
    settings.setdefault("label_smoothing", 0.1 if row.smoothed else 0.0)
    request = begin_request(tmp_path, "preference", settings, models=models)
    return build_stage(plan_from_pb(request), Compute(torch.device("cpu"), threads), ProgressFeed())[0]


def gradient(stage, pairs, micro_batches):
    """Of one minibatch, cut into these micro-batches."""
    admitted, _ = stage.door().admit(pairs_from_pb(pb.PreferenceBatch(pairs=pairs)))
    prepared = stage._prepare(admitted, micro_batches, ProgressFeed())
    stage.learner.forget_moments()
    stage.accumulate(prepared, micro_batches)
    return torch.cat([p.grad.flatten() for p in stage.learner.parameters.values() if p.grad is not None])


def bare(pairs):
    for side in (side for pair in pairs for side in (pair.sampled.first, pair.sampled.second)):
        side.ClearField("reference_logprobs")
    return pairs


def assert_equal(found, expected):
    assert expected.norm() > 1e-4
    assert (found - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("loss", PREFERENCE_LOSSES)
@pytest.mark.parametrize("threads", [1, 2])
def test_accumulated_micro_batches_have_the_gradient_of_the_whole_minibatch(
    tmp_path, start, reference, loss, threads
):
    pairs = bare(sampled_pairs(start, reference, 7))
    for index, pair in enumerate(pairs):
        pair.weight = 1.0 + index % 3
    whole = gradient(stage_in(tmp_path, reference, loss=loss), pairs, [list(range(7))])
    parts = stage_in(tmp_path, reference, threads, loss=loss)
    assert_equal(gradient(parts, pairs, [[3, 0], [5], [1, 6], [2, 4]]), whole)


def test_a_minibatchs_gradient_is_the_mean_of_its_pairs_by_weight(tmp_path, start, reference):
    pairs = bare(sampled_pairs(start, reference, 2))
    stage = stage_in(tmp_path, reference)
    first, second = (gradient(stage, [pair], [[0]]) for pair in pairs)
    pairs[0].weight = 3.0
    assert_equal(gradient(stage, pairs, [[0, 1]]), (3 * first + second) / 4)


def test_a_longer_pair_beside_it_does_not_change_a_pairs_log_probs(tmp_path, start, reference):
    stage = stage_in(tmp_path, reference)
    pairs = bare(sampled_pairs(start, reference, 2))
    for side in (pairs[1].sampled.first, pairs[1].sampled.second):
        side.response_ids[:] = [*range(7, 40), side.response_ids[0]]
    admitted, _ = stage.door().admit(pairs_from_pb(pb.PreferenceBatch(pairs=pairs)))
    with torch.no_grad():
        alone, beside = (
            stage._loss_sum(stage._prepare(admitted, [rows], ProgressFeed()), [0], 0.0)[1]
            for rows in ([0], [0, 1])
        )
    assert alone.loss == pytest.approx(beside.loss, rel=1e-5)
    assert alone.logprob_chosen == pytest.approx(beside.logprob_chosen, rel=1e-5)


async def test_the_same_batch_gives_the_same_bits_on_one_thread_and_on_two(tmp_path, start):
    pairs = bare(sampled_pairs(start, start, 9))
    for threads in (1, 2):
        found = [
            (await one_preference_step(tmp_path, pairs, start, threads=threads, loss="kto")).weights_sha256
            for _ in range(2)
        ]
        assert found[0] == found[1]
