"""Over 1,000 random batches: rows that cannot train leave weights and numbers as if they had not been there.

Every step is the stage's own, from its door to its optimizer; only the model is the smallest that has
log-probs, a table of bigrams, so that a thousand steps take seconds.
"""

import math
import random
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from services.models import LoadedCausal, LoadedScalar, ScalarModel
from services.progress import ProgressFeed
from services.trainer.device import Compute
from services.trainer.loading import Critic
from services.trainer.ppo import PpoStage
from services.trainer.preference import PreferenceStage
from services.trainer.preference_losses import PREFERENCE_LOSSES
from services.trainer.preference_passes import Frozen
from services.trainer.preference_records import PreferencePair, SampledPair, SampledResponse
from services.trainer.preference_settings import PreferenceSettings
from services.trainer.records import ScoredRollout
from services.trainer.settings import OptimizerSettings, PpoSettings
from services.weights import ModelVersion
from tests.trainer.wiring import OPTIMIZER, PPO, PREFERENCE

VOCABULARY, CONTEXT = 12, 16
VERSION = ModelVersion("start", 0, "0" * 64)
COMPUTE = Compute(torch.device("cpu"))
LOSSES = tuple(PREFERENCE_LOSSES)
BATCHES = 1000


class Bigrams(nn.Module):
    """A language model that looks one token back."""

    def __init__(self, seed):
        super().__init__()
        weight = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(seed))
        self.logits = nn.Embedding.from_pretrained(weight, freeze=False)

    def forward(self, input_ids, use_cache, logits_to_keep):
        return SimpleNamespace(logits=self.logits(input_ids)[:, -logits_to_keep:])


class Classifier(nn.Module):
    """What ScalarModel wraps: a backbone that looks at one token, and a head."""

    def __init__(self, seed):
        super().__init__()
        weight = torch.randn(VOCABULARY, 4, generator=torch.Generator().manual_seed(seed))
        self.hidden = nn.Embedding.from_pretrained(weight, freeze=False)
        self.score = nn.Linear(4, 1, bias=False)
        nn.init.constant_(self.score.weight, 0.1)

    def base_model(self, input_ids, use_cache):
        return SimpleNamespace(last_hidden_state=self.hidden(input_ids))


def loaded(kind, model):
    tokenizer = SimpleNamespace(get_vocab=lambda: {"end": 2})
    return kind(model, tokenizer, CONTEXT, VOCABULARY, eos_ids=[2], pad_id=0)


def plan():
    return SimpleNamespace(seed=7)


def ids(draw, at_most):
    return [draw.randrange(3, VOCABULARY) for _ in range(draw.randint(1, at_most))]


def mixed(draw, good, spoil):
    """The good rows in their order, with spoilt copies of some at random places; how many were put in."""
    bad = [spoil(draw, draw.choice(good)) for _ in range(draw.randint(1, 4))]
    rows = list(good)
    for each in bad:
        rows.insert(draw.randint(0, len(rows)), each)
    return rows, len(bad)


def check_same(stage_of, good, rows, bad):
    """Bit for bit the same weights, moments and numbers, whether the bad rows are there or not."""
    alone, among = stage_of(), stage_of()
    expected = alone.step(good, 0, ProgressFeed())
    found = among.step(rows, 0, ProgressFeed())
    assert len(found.excluded) == bad and not expected.excluded
    assert {**found.metrics, "excluded": 0} == expected.metrics
    before, after = alone.state().tensors, among.state().tensors
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


# Preference learning


def preference_stage(loss):
    masked = {"masked_tokens": ["end"], "nll_coefficient": 0.1 if PREFERENCE_LOSSES[loss].nll else 0.0}
    given = {**PREFERENCE, **masked, "loss": loss, "epochs": 2, "minibatch_size": 2, "max_missing_share": 0.9}
    given |= {"optimizer": OptimizerSettings(**OPTIMIZER), "max_tokens": CONTEXT}
    row = PREFERENCE_LOSSES[loss]
    given["label_smoothing"] = 0.1 if row.smoothed else 0.0
    frozen = Frozen(loaded(LoadedCausal, Bigrams(2)), VERSION) if row.reference else None
    model = loaded(LoadedCausal, Bigrams(1))
    return PreferenceStage(plan(), PreferenceSettings(**given), model, VERSION, COMPUTE, frozen)


def random_pairs(draw):
    pairs = []
    for index in range(draw.randint(2, 5)):
        prompt = [*ids(draw, 3), 3 + index]  # no two prompts are the same
        sides = [SampledResponse(prompt, [*ids(draw, 4), end]) for end in (2, 3)]
        probability = draw.choice([0.0, 0.2, 0.7, 1.0])
        weight = draw.choice([1.0, 0.5])
        pairs.append(PreferencePair(SampledPair(*sides), probability, weight=weight))
    return pairs


def spoilt_pair(draw, pair):
    return draw.choice(
        [
            PreferencePair(pair.responses, fault=("preference_missing", "none")),
            PreferencePair(pair.responses, 1.0, fault=("preference_failed", "the judge abstained")),
            PreferencePair(pair.responses, math.nan),
            PreferencePair(pair.responses, math.inf),
            PreferencePair(SampledPair(pair.responses.first, pair.responses.first), 1.0),
            PreferencePair(too_long(pair.responses), 1.0),
        ]
    )


def too_long(pair):
    long = SampledResponse(pair.first.prompt_ids, [5] * CONTEXT)
    return SampledPair(pair.first, long)


def check_pairs(loss, seed):
    draw = random.Random(f"{loss}/{seed}")
    good = random_pairs(draw)
    rows, bad = mixed(draw, good, spoilt_pair)
    check_same(lambda: preference_stage(loss), good, rows, bad)


@pytest.mark.timeout(600)  # 20 seconds where nothing else runs
def test_pairs_without_a_preference_leave_no_trace():
    for seed in range(BATCHES):
        check_pairs(LOSSES[seed % len(LOSSES)], seed)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("loss", LOSSES)
def test_pairs_without_a_preference_leave_no_trace_in_any_loss(loss):
    for seed in range(BATCHES):
        check_pairs(loss, seed)


# PPO


def ppo_stage():
    both = {name: OptimizerSettings(**OPTIMIZER) for name in ("policy_optimizer", "critic_optimizer")}
    given = {**PPO, **both, "kl_target": 6.0, "whiten_rewards": True, "epochs": 1, "max_missing_share": 0.9}
    policy = loaded(LoadedCausal, Bigrams(1))
    critic = Critic(loaded(LoadedScalar, ScalarModel(Classifier(3))), "trained")
    return PpoStage(plan(), PpoSettings(**given), policy, critic, VERSION, COMPUTE)


def rollout(draw, prompt, response, **score):
    logprobs = [[-draw.uniform(0.1, 4.0) for _ in response] for _ in range(2)]
    return ScoredRollout(prompt, response, *logprobs, "temperature", "length", VERSION, 1.0, 1.0, 0, **score)


def random_rollouts(draw):
    rollouts = []
    for _ in range(draw.randint(2, 5)):
        value = draw.uniform(-2, 2)
        rollouts.append(rollout(draw, ids(draw, 4), ids(draw, 5), score=value, raw_score=2 * value))
    return rollouts


def spoilt_rollout(draw, good):
    score = draw.choice(
        [
            {"score_fault": ("score_missing", "none")},
            {"score_fault": ("score_failed", "timeout"), "score": 1.0, "raw_score": 1.0},
            {"score": math.nan, "raw_score": 1.0},
            {"score": 1.0, "raw_score": math.inf},
        ]
    )
    return rollout(draw, good.prompt_ids, good.response_ids, **score)


@pytest.mark.timeout(600)
def test_rollouts_without_a_score_leave_no_trace():
    for seed in range(BATCHES):
        draw = random.Random(seed)
        good = random_rollouts(draw)
        rows, bad = mixed(draw, good, spoilt_rollout)
        check_same(ppo_stage, good, rows, bad)
