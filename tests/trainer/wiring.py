"""What the trainer's tests send over the wire: a real server, tiny real models, batches made by hand."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import torch

from services.models import load_causal, load_scalar
from services.sequences import response_logprobs
from services.server import running
from services.settings import ServerSettings
from services.trainer.device import Compute
from services.trainer.service import TrainerServicer
from services.weights import describe_plain
from tests.tiny_models import write_tiny_model
from trueline import TrainerClient
from trueline.v1 import trainer_pb2 as pb
from trueline.v1 import types_pb2

SERVICE = "trueline.v1.TrainerService"
OPTIMIZER: dict[str, Any] = {
    "learning_rate": 1e-3,
    "beta1": 0.9,
    "beta2": 0.999,
    "epsilon": 1e-8,
    "weight_decay": 0.0,
    "max_gradient_norm": 1.0,
    "warmup_updates": 0,
    "schedule": "linear",
}
SFT: dict[str, Any] = {
    "optimizer": OPTIMIZER,
    "minibatch_size": 4,
    "micro_batch_size": 4,
    "max_tokens": 64,
    "total_updates": 100,
    "loss_on": "assistant",
}
REWARD_MODEL: dict[str, Any] = {
    "optimizer": OPTIMIZER,
    "minibatch_size": 4,
    "micro_batch_size": 8,
    "max_tokens": 64,
    "total_updates": 100,
    "centering_coefficient": 0.01,
}
PPO: dict[str, Any] = {
    "policy_optimizer": OPTIMIZER,
    "critic_optimizer": OPTIMIZER,
    "total_rounds": 20,
    "epochs": 2,
    "minibatches": 2,
    "micro_batch_size": 4,
    "critic_warmup_rounds": 0,
    "gamma": 1.0,
    "gae_lambda": 0.95,
    "clip_range": 0.2,
    "dual_clip": 3.0,
    "value_clip_range": 0.2,
    "value_coefficient": 0.1,
    "entropy_coefficient": 0.0,
    "kl_estimator": "k1",
    "kl_coefficient": 0.05,
    "kl_target": 0.0,
    "kl_horizon": 10000.0,
    "kl_budget_soft": 0.0,
    "kl_budget_hard": 0.0,
    "missing_end_penalty": 1.0,
    "score_clip": 0.0,
    "whiten_rewards": False,
    "whiten_advantages": True,
    "importance_cap": 2.0,
    "max_missing_share": 0.5,
}
PREFERENCE: dict[str, Any] = {
    "optimizer": OPTIMIZER,
    "epochs": 1,
    "minibatch_size": 4,
    "micro_batch_size": 8,
    "max_tokens": 64,
    "total_updates": 100,
    "loss": "dpo",
    "beta": 0.1,
    "label_smoothing": 0.0,
    "simpo_margin": 1.375,
    "kto_desirable_weight": 1.0,
    "kto_undesirable_weight": 1.0,
    "nll_coefficient": 0.0,
    "temperature": 1.0,
    "masked_tokens": [],
    "max_missing_share": 0.5,
}


@asynccontextmanager
async def trainer(
    threads: int = 1, side_by_side: bool = True, **settings: Any
) -> AsyncIterator[TrainerClient]:
    """A trainer on a socket of this machine and a client to it; `client.servicer` is its inside."""
    compute = Compute(torch.device("cpu"), threads, side_by_side)
    async with (
        running(SERVICE, lambda host: TrainerServicer(host, compute), ServerSettings(**settings)) as server,
        TrainerClient(server.address) as client,
    ):
        client.servicer = server.application  # type: ignore[attr-defined]
        client.server = server  # type: ignore[attr-defined]
        yield client


def header(request_id: str, step: int = 0, *, epoch: int = 1, run: str = "run") -> types_pb2.CallHeader:
    return types_pb2.CallHeader(run_id=run, epoch=epoch, request_id=request_id, expected_step=step)


def plain(path: Path) -> types_pb2.ModelLocation:
    """A plain directory's location: no version is expected."""
    return types_pb2.ModelLocation(uri=str(path))


def begin_request(
    directory: Path, kind: str, settings: dict[str, Any] | None = None, **fields: Any
) -> pb.BeginStageRequest:
    """Begins a stage on the tiny model in `directory`/start, which is written when it is not there."""
    if not (directory / "start").exists():
        write_tiny_model(directory / "start", "llama", seed=1)
    message, defaults = {
        "sft": (pb.SftSettings, SFT),
        "reward_model": (pb.RewardModelSettings, REWARD_MODEL),
        "ppo": (pb.PpoSettings, PPO),
        "preference": (pb.PreferenceSettings, PREFERENCE),
    }[kind]
    trained = pb.StageModel(role=pb.MODEL_ROLE_TRAINED, location=plain(directory / "start"))
    given: dict[str, Any] = {
        "header": header("begin"),
        "stage": kind,
        "models": [trained],
        "output_model": "out",
        "models_uri": str(directory / "models"),
        "checkpoints_uri": str(directory / "checkpoints"),
        "seed": 7,
        kind: message(**{**defaults, **(settings or {})}),
    }
    return pb.BeginStageRequest(**{**given, **fields})


def conversation(*turns: tuple[str, str]) -> types_pb2.Conversation:
    roles = {
        "system": types_pb2.ROLE_SYSTEM,
        "user": types_pb2.ROLE_USER,
        "assistant": types_pb2.ROLE_ASSISTANT,
    }
    messages = [types_pb2.Message(role=roles[role], content=content) for role, content in turns]
    return types_pb2.Conversation(messages=messages)


def words(draw: random.Random, count: int) -> str:
    return " ".join(f"w{draw.randrange(59)}" for _ in range(count))


def sft_rows(count: int, seed: int = 0) -> list[pb.SftRow]:
    draw = random.Random(seed)
    return [
        pb.SftRow(
            conversation=conversation(
                ("user", words(draw, draw.randint(2, 8))), ("assistant", words(draw, draw.randint(1, 9)))
            )
        )
        for _ in range(count)
    ]


def comparison_groups(count: int, responses: int = 3, seed: int = 0) -> list[pb.ComparisonGroup]:
    """Groups in which a response with more of w1 is better: learnable."""
    draw = random.Random(seed)
    groups = []
    for index in range(count):
        answers = [f"{words(draw, 3)} {'w1 ' * k}{words(draw, 2)}" for k in range(responses)]
        pairs = [
            pb.Preference(first=b, second=a, probability=1.0)
            for a in range(responses)
            for b in range(a + 1, responses)
        ]
        groups.append(
            pb.ComparisonGroup(
                prompt_id=f"p{index}", text=words(draw, 4), responses=answers, preferences=pairs
            )
        )
    return groups


def score(value: float) -> types_pb2.Score:
    return types_pb2.Score(value=types_pb2.ScoreValue(raw=2 * value, normalised=value))


def version_of(path: Path) -> types_pb2.ModelVersion:
    version = describe_plain(path).version
    return types_pb2.ModelVersion(model=version.model, number=version.number, sha256=version.sha256)


def rollouts_of(
    policy: Path,
    reference: Path,
    count: int,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    lengths: Sequence[int] = (),
) -> list[types_pb2.Rollout]:
    """Responses drawn at random, with their true log-probs under the model in `policy` and in `reference`."""
    draw = random.Random(seed)
    models = [load_causal(path) for path in (policy, reference)]
    version = version_of(policy)
    rollouts = []
    for index in range(count):
        prompt = [1, *(draw.randrange(5, 64) for _ in range(draw.randint(2, 8))), 4]
        length = lengths[index] if lengths else draw.randint(1, 10)
        response = [draw.randrange(5, 64) for _ in range(length)]
        ended = index % 3 != 0
        response[-1] = 2 if ended else response[-1]
        with torch.no_grad():
            of_policy, of_reference = (
                response_logprobs(each.model, [prompt], [response], temperature, each.pad_id)[0][0].tolist()
                for each in models
            )
        rollouts.append(
            types_pb2.Rollout(
                prompt_id=f"p{index}",
                prompt_ids=prompt,
                response_ids=response,
                policy_logprobs=of_policy,
                reference_logprobs=of_reference,
                logprob_kind=types_pb2.LOGPROB_KIND_TEMPERATURE,
                finish_reason=types_pb2.FINISH_REASON_END_OF_TEXT
                if ended
                else types_pb2.FINISH_REASON_LENGTH,
                policy_version=version,
                sampling=types_pb2.SamplingParameters(temperature=temperature, top_p=1.0, max_new_tokens=10),
                score=score(sum(response) / 300 - 0.5 + 0.01 * index),
            )
        )
    return rollouts


def ppo_request(rollouts: Sequence[types_pb2.Rollout], step: int = 0, name: str = "") -> pb.PpoStepRequest:
    return pb.PpoStepRequest(
        header=header(name or f"ppo/{step}", step), inline=pb.PpoBatch(rollouts=rollouts)
    )


def preference_models(start: Path, reference: Path | None) -> list[pb.StageModel]:
    """The trained model, and the reference that the trainer is to hold where there is one."""
    roles = {pb.MODEL_ROLE_TRAINED: start, pb.MODEL_ROLE_REFERENCE: reference}
    return [pb.StageModel(role=role, location=plain(path)) for role, path in roles.items() if path]


def sampled_pairs(
    policy: Path, reference: Path, count: int, *, seed: int = 0, temperature: float = 1.0
) -> list[pb.PreferencePair]:
    """Pairs of random responses of several lengths, with their true log-probs under the reference."""
    draw = random.Random(seed)
    firsts = rollouts_of(policy, reference, count, seed=2 * seed + 1, temperature=temperature)
    model = load_causal(reference)
    pairs = []
    for index, first in enumerate(firsts):
        first.reference_version.CopyFrom(version_of(reference))
        second = types_pb2.Rollout()
        second.CopyFrom(first)
        second.response_ids[:] = [*(draw.randrange(5, 64) for _ in range(draw.randint(1, 9))), 2]
        with torch.no_grad():
            found, _ = response_logprobs(
                model.model, [list(first.prompt_ids)], [list(second.response_ids)], temperature, model.pad_id
            )
        second.reference_logprobs[:] = found[0].tolist()
        probability = (0.9, 0.2, 1.0)[index % 3]
        sides = pb.SampledPair(first=first, second=second)
        pairs.append(pb.PreferencePair(prompt_id=f"p{index}", sampled=sides, probability=probability))
    return pairs


def preference_request(
    pairs: Sequence[pb.PreferencePair], step: int = 0, name: str = "", evaluate_only: bool = False
) -> pb.PreferenceStepRequest:
    batch = pb.PreferenceBatch(pairs=pairs)
    head = header(name or f"preference/{step}", step)
    return pb.PreferenceStepRequest(header=head, inline=batch, evaluate_only=evaluate_only)


async def one_preference_step(
    directory: Path,
    pairs: Sequence[pb.PreferencePair],
    reference: Path | None = None,
    *,
    threads: int = 1,
    evaluate_only: bool = False,
    **settings: Any,
) -> pb.StepResult:
    """The first step of a fresh trainer, which holds `reference` where one is given."""
    models = preference_models(directory / "start", reference)
    async with trainer(threads) as client:
        await client.begin_stage(begin_request(directory, "preference", settings, models=models))
        return await client.preference_step(preference_request(pairs, evaluate_only=evaluate_only))


def sft_request(rows: Sequence[pb.SftRow], step: int = 0, name: str = "") -> pb.SftStepRequest:
    return pb.SftStepRequest(header=header(name or f"sft/{step}", step), inline=pb.SftBatch(rows=rows))


def reward_request(
    groups: Sequence[pb.ComparisonGroup], step: int = 0, name: str = "", evaluate_only: bool = False
) -> pb.RewardModelStepRequest:
    batch = pb.ComparisonBatch(groups=groups)
    head = header(name or f"reward/{step}", step)
    return pb.RewardModelStepRequest(header=head, inline=batch, evaluate_only=evaluate_only)


async def one_ppo_step(
    directory: Path,
    rollouts: Sequence[types_pb2.Rollout],
    *,
    threads: int = 1,
    side_by_side: bool = True,
    **settings: Any,
) -> pb.StepResult:
    """The first step of a fresh trainer."""
    async with trainer(threads, side_by_side) as client:
        await client.begin_stage(begin_request(directory, "ppo", settings))
        return await client.ppo_step(ppo_request(rollouts))


def two_models(directory: Path) -> list[pb.StageModel]:
    """The policy, and a scalar model for the critic, so that no new head depends on the seed."""
    path = directory / "scalar"
    if not path.exists():
        loaded = load_scalar(directory / "start", initialise_head=True, seed=5)
        path.mkdir()
        loaded.model.classifier.save_pretrained(path)
        loaded.tokenizer.save_pretrained(path)
    return [
        pb.StageModel(role=pb.MODEL_ROLE_TRAINED, location=plain(directory / "start")),
        pb.StageModel(role=pb.MODEL_ROLE_REWARD, location=plain(path)),
    ]
