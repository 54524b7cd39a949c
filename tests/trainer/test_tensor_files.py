"""Files that are written tensor by tensor, and activations that are computed again: nobody can tell."""

import pytest
import torch
from safetensors.torch import save_file

from services.trainer.device import Compute
from services.trainer.ranks import Ranks
from services.trainer.tensor_files import write_whole
from tests.tiny_models import write_tiny_model
from tests.trainer.wiring import (
    begin_request,
    comparison_groups,
    ppo_request,
    reward_request,
    rollouts_of,
    sft_request,
    sft_rows,
    trainer,
)

TENSORS = {
    "b/weights/x.weight": torch.arange(6.0).view(2, 3),
    "a/step/é": torch.tensor(7.0),
    "c/half": torch.ones(3, dtype=torch.bfloat16),
    "a/none": torch.zeros(0, 4),
    "a/turned": torch.arange(6.0).view(2, 3).T,
}


def test_a_file_has_the_bytes_that_safetensors_writes(tmp_path):
    save_file({name: tensor.contiguous() for name, tensor in TENSORS.items()}, tmp_path / "theirs")
    write_whole(tmp_path / "ours", TENSORS, TENSORS, Ranks())
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_a_file_that_cannot_be_written_is_an_error_and_no_share_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "no" / "where", TENSORS, TENSORS, Ranks())
    write_whole(tmp_path / "nothing", TENSORS, (), Ranks())
    assert not (tmp_path / "nothing").exists()


def test_a_share_is_as_long_on_every_rank_and_every_part_counts_once():
    dealt = [Ranks(rank, 3).dealt("abcd") for rank in range(3)]
    assert dealt == [
        [("a", True), ("d", True)],
        [("b", True), ("a", False)],
        [("c", True), ("a", False)],
    ]
    assert Ranks().dealt([1, 2]) == [(1, True), (2, True)]


async def weights_after_a_step(directory, kind, checkpointing):
    async with trainer() as client:
        compute = Compute(torch.device("cpu"), activation_checkpointing=checkpointing)
        client.servicer.trainer.compute = compute
        await client.begin_stage(begin_request(directory, kind))
        if kind == "sft":
            return (await client.sft_step(sft_request(sft_rows(9)))).weights_sha256
        if kind == "reward_model":
            return (await client.reward_model_step(reward_request(comparison_groups(5)))).weights_sha256
        rollouts = rollouts_of(directory / "start", directory / "start", 9)
        return (await client.ppo_step(ppo_request(rollouts))).weights_sha256


@pytest.mark.parametrize(("kind", "family"), [("sft", "gpt2"), ("reward_model", "qwen2"), ("ppo", "llama")])
async def test_activation_checkpointing_changes_no_bit(tmp_path, kind, family):
    write_tiny_model(tmp_path / "start", family, seed=1)
    plain = await weights_after_a_step(tmp_path, kind, False)
    assert await weights_after_a_step(tmp_path, kind, True) == plain
