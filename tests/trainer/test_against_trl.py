"""Losses and gradients against TRL's own trainers, on the same tiny models and pairs.

TRL lives in the peer benchmark's environment (.venv-peer, made here where it is missing); a machine that
cannot have it skips, and says why.
"""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.peer.environment import prepare
from services.models import load_scalar, save_scalar
from services.progress import ProgressFeed
from services.templates import render_exchange
from services.trainer.device import Compute
from services.trainer.preference_losses import PREFERENCE_LOSSES
from services.trainer.preference_wire import pairs_from_pb
from services.trainer.reward_model import Measured
from services.trainer.stages import build_stage
from services.trainer.wire import groups_from_pb, plan_from_pb
from tests.tiny_models import write_tiny_model
from tests.trainer.wiring import begin_request, comparison_groups, plain, preference_models, sampled_pairs
from trueline.v1 import trainer_pb2 as pb

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).resolve().parents[2]
BETA, LABEL_SMOOTHING, CENTERING = 0.3, 0.1, 0.01
# Ours -> TRL's. Where the names differ the conventions do: TRL's "ipo" is of log-probs per TOKEN, which is
# ours by the name of ipo_length_normalised; ours called ipo, the paper's, is of sums, and TRL's DPOTrainer
# has none. TRL's "sigmoid" takes no soft label and no margin.
DPO_LOSSES = {
    "dpo": "sigmoid",
    "dpo_length_normalised": "sigmoid_norm",
    "ipo_length_normalised": "ipo",
    "hinge": "hinge",
    "robust_dpo": "robust",
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("trl")
    # This way round KTO's baseline is above 0, where it counts.
    write_tiny_model(path / "start", "llama", seed=2)
    write_tiny_model(path / "reference", "llama", seed=1)
    save_scalar(*scalar_of(path), path / "scalar")
    return path


def scalar_of(path):
    loaded = load_scalar(path / "start", initialise_head=True, seed=5)
    return loaded.model, loaded.tokenizer


def stage_in(directory, kind, models, **settings):
    request = begin_request(directory, kind, settings, models=models)
    return build_stage(plan_from_pb(request), Compute(torch.device("cpu")), ProgressFeed())[0]


def preference_stage(directory, loss):
    """A stage and the tests' pairs behind its door, in the order that TRL gets them too."""
    smoothing = LABEL_SMOOTHING if PREFERENCE_LOSSES[loss].smoothed else 0.0
    models = preference_models(directory / "start", directory / "reference")
    stage = stage_in(
        directory, "preference", models, loss=loss, beta=BETA, label_smoothing=smoothing, micro_batch_size=64
    )
    pairs = sampled_pairs(directory / "start", directory / "reference", 6)
    for pair in pairs:
        for side in (pair.sampled.first, pair.sampled.second):
            side.ClearField("reference_logprobs")
    return stage, stage.door().admit(pairs_from_pb(pb.PreferenceBatch(pairs=pairs)))[0]


@pytest.fixture(scope="module")
def groups():
    """One pair to a prompt. With more, TRL weighs every pair alike, and ours every prompt (InstructGPT)."""
    return comparison_groups(5, responses=2)


@pytest.fixture(scope="module")
def of_trl(directory, groups):
    """TRL's numbers by name, from a process of its own."""
    try:
        python = prepare(ROOT / ".venv-peer")
    except (subprocess.CalledProcessError, OSError) as error:
        pytest.skip(f"TRL cannot be installed here: {error}")
    stage, pairs = preference_stage(directory, "kto")
    prepared = stage._prepare(pairs, [list(range(len(pairs)))], ProgressFeed())
    tokenizer = stage.loaded.tokenizer
    exchanges = []
    for group in groups:  # the second response is the better one
        worse, better = (render_exchange(tokenizer, group.text, each) for each in group.responses)
        exchanges.append({"chosen_ids": better, "rejected_ids": worse})
    spec = {name: str(directory / place) for name, place in (("policy", "start"), ("scalar", "scalar"))}
    spec |= {"reference": str(directory / "reference"), "beta": BETA, "label_smoothing": LABEL_SMOOTHING}
    spec |= {"centering": CENTERING, "dpo_losses": DPO_LOSSES, "partners": prepared.partners}
    spec["exchanges"] = exchanges
    spec["pairs"] = [
        {"prompt_ids": pair.prompt, "chosen_ids": pair.chosen.ids, "rejected_ids": pair.rejected.ids}
        for pair in pairs
    ]
    given, out = directory / "spec.json", directory / "trl.safetensors"
    given.write_text(json.dumps(spec), encoding="utf-8")
    command = [str(python.absolute()), str(ROOT / "tests/trainer/trl_losses.py"), str(given), str(out)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return load_file(out)


def check(of_trl, name, loss, learner, prefix=""):
    """The loss within 1e-5, and the gradient of the whole model within 1e-5 of its norm."""
    assert loss == pytest.approx(of_trl[f"{name}/loss"].item(), rel=1e-5, abs=1e-5)
    gradients = {
        key.removeprefix(prefix): p.grad for key, p in learner.parameters.items() if p.grad is not None
    }
    theirs = {key.removeprefix(f"{name}/"): x for key, x in of_trl.items() if key.startswith(f"{name}/")}
    theirs.pop("loss")
    assert gradients.keys() == theirs.keys()
    ours_N, theirs_N = (torch.cat([x[key].flatten() for key in sorted(theirs)]) for x in (gradients, theirs))
    assert theirs_N.norm() > 1e-3
    assert (ours_N - theirs_N).norm() <= 1e-5 * theirs_N.norm()


@pytest.mark.parametrize("loss", [*DPO_LOSSES, "kto"])
def test_loss_and_gradient_are_trls(directory, of_trl, loss):
    """KTO: TRL mismatches each prompt with the response before it in the batch, we with the next pair of
    another prompt; TRL is given our mismatches here. Its mean over the 2P examples is ours over P pairs.
    """
    stage, pairs = preference_stage(directory, loss)
    minibatch = [list(range(len(pairs)))]
    sums = stage.accumulate(stage._prepare(pairs, minibatch, ProgressFeed()), minibatch)
    assert (sums.baseline > 0) == (loss == "kto")
    check(of_trl, loss, sums.loss / sums.weight, stage.learner)


def test_a_reward_models_loss_and_gradient_are_trls(directory, of_trl, groups):
    models = [pb.StageModel(role=pb.MODEL_ROLE_TRAINED, location=plain(directory / "scalar"))]
    stage = stage_in(directory, "reward_model", models, centering_coefficient=CENTERING, micro_batch_size=64)
    encoded, _ = stage._encode(groups_from_pb(pb.ComparisonBatch(groups=groups)), ProgressFeed())
    sums = Measured()
    stage.accumulate(encoded, sums)
    check(of_trl, "reward", sums.loss / sums.groups, stage.learner, prefix="classifier.")
