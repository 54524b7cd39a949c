"""The memory plan: what it counts is what a real model keeps, and its advice fits."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch

from services.models import load_causal
from services.trainer.memory_plan import (
    GIB,
    Footprint,
    Plan,
    footprint,
    parameters_on_disk,
    ways_to_fit,
)
from services.trainer.plan_command import print_plan
from services.trainer.sharding import checkpoint_activations
from tests.tiny_models import FAMILIES, write_tiny_model

EIGHT_BILLION = Footprint(8_000_000_000, 32, 218_000_000, 4096, 128_256, 8192, 8e6, 0.0)


def plan_of(**changes):
    settings = {"stage": "ppo", "ranks": 1, "micro_batch_size": 4, "max_tokens": 2048}
    rest = {"activation_checkpointing": False, "device_memory": 80 * GIB, "on_cpu": False}
    return Plan(EIGHT_BILLION, **{**settings, **rest, **changes})


def kept_by(model, rows, length):
    """Bytes that autograd really keeps behind a forward pass of the backbone."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def weigh(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes(), storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(weigh, lambda tensor: tensor):
        output = model.base_model(input_ids=torch.ones((rows, length), dtype=torch.long), use_cache=False)
    assert output is not None
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_plan_counts_what_a_real_model_keeps(tmp_path, family):
    write_tiny_model(tmp_path / "model", family, width=64, layers=4)
    model = load_causal(tmp_path / "model").model
    found = footprint(tmp_path / "model", autocast=False)
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.parameters == parameters_on_disk(tmp_path / "model")
    assert (found.blocks, found.vocabulary_size, found.context_length) == (4, 64, 64)
    assert 4 * 3 * 60 * found.activation_bytes == pytest.approx(4 * kept_by(model, 3, 60), rel=0.1)
    plan = Plan(found, "sft", 1, 3, 60, True, GIB, True)
    checkpoint_activations(model)
    # One block is computed again at a time; the rest is the blocks' inputs.
    inputs = plan.activations - 3 * 60 * found.activation_bytes / 4
    assert inputs == pytest.approx(kept_by(model, 3, 60), rel=0.35)


def test_autocast_halves_activations_and_copies_the_weights(tmp_path):
    write_tiny_model(tmp_path / "model", width=64)
    plain, cast = (footprint(tmp_path / "model", autocast=on) for on in (False, True))
    assert plain.cast_bytes == 0
    blocks = plain.blocks * plain.block_parameters
    assert cast.cast_bytes == pytest.approx(2 * blocks, rel=0.1)
    assert 0.4 * plain.activation_bytes < cast.activation_bytes < plain.activation_bytes


def test_a_policy_with_its_critic_costs_32_bytes_a_parameter_and_24_to_undo():
    plan = plan_of()
    assert plan.states == 32 * 8e9 and plan.copy == 24 * 8e9 and plan.gathered == 0
    assert plan_of(stage="sft").states == 16 * 8e9
    assert plan_of(stage="reward").logits == 0
    four = plan_of(ranks=4)
    assert four.states == 8 * 8e9 and four.copy == 6 * 8e9
    assert four.gathered == 4 * (3 * 218e6 + 2 * (8e9 - 32 * 218e6))
    assert plan.activations == 8192 * 8e6 and plan.logits == 12 * 8192 * 128_256
    assert plan_of(on_cpu=True).device_total == plan.device_total + plan.copy


def test_the_advice_fits_and_what_is_not_given_does_not():
    plan = plan_of(ranks=4)
    ways = list(ways_to_fit(plan))
    assert not plan.fits and ways and all(way.fits for way in ways)
    for way in ways:
        if way.ranks > plan.ranks:
            assert not dataclasses.replace(way, ranks=way.ranks // 2).fits
    assert list(ways_to_fit(plan_of(device_memory=GIB))) == []


def test_the_command_says_what_fits_from_a_config_alone(tmp_path, capsys):
    write_tiny_model(tmp_path / "model")
    (tmp_path / "model/model.safetensors").unlink()
    assert print_plan([str(tmp_path / "model"), "--device-memory", "1GiB", "--ranks", "2"]) == 0
    assert "32 bytes a parameter" in capsys.readouterr().out
    assert print_plan([str(tmp_path / "model"), "--device-memory", "0.0001GiB"]) == 1
    assert "does not fit" in capsys.readouterr().out
    (tmp_path / "model/config.json").write_text(json.dumps({"model_type": "nobody-knows"}))
    assert print_plan([str(tmp_path / "model")]) == 2
    assert str(tmp_path / "model") in capsys.readouterr().err


def test_the_service_knows_the_word_plan(tmp_path):
    command = [sys.executable, "-m", "services.trainer", "plan", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 2 and "holds no config.json" in ended.stderr
