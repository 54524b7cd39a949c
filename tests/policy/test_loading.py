"""What the transformers engine loads it samples rightly: an architecture it cannot sample is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

from services.models import BUILDING
from services.policy import transformers_loading
from services.policy.engine import Row, Sampling
from services.policy.transformers_loading import TransformersLoader
from services.weights import WeightsError, describe_plain
from tests.model_services import asked, header, policy_service, sampling
from tests.tiny_models import VOCABULARY, tiny_causal, tiny_tokenizer, write_tiny_model
from trueline import CallError
from trueline.v1 import types_pb2

IDS: dict[str, Any] = {
    "vocab_size": len(VOCABULARY),
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "initializer_range": 0.3,
}
ATTENTION: dict[str, Any] = {
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
EXPERTS: dict[str, Any] = {
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}
LINEAR: dict[str, Any] = {
    "head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
SAMPLED = {
    "mistral": {**ATTENTION, "sliding_window": 6},
    "gemma2": {**ATTENTION, "head_dim": 8, "sliding_window": 6},
    "qwen2_moe": {**ATTENTION, **EXPERTS},
    "bloom": {"n_layer": 2, "n_head": 4, "seq_length": 64},
}
REFUSED = {
    "mamba": {"state_size": 8},
    "rwkv": {"attention_hidden_size": 32, "context_length": 64},
    "qwen3_next": {**ATTENTION, **EXPERTS, **LINEAR},
}


def written(path: Path, family: str, shape: dict[str, Any]) -> Path:
    """A tiny random model of any family."""
    with BUILDING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**IDS, **shape}))
    model.save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.mark.parametrize("family", SAMPLED)
def test_a_family_that_loads_samples_what_the_trainer_computes(tmp_path: Path, family: str) -> None:
    path = written(tmp_path / "m", family, SAMPLED[family])
    engine = TransformersLoader()(path, describe_plain(path))
    rows = [Row([1, *range(5, 5 + n)], n) for n in (2, 9, 14, 3)]
    drawn = engine.generate(rows, Sampling(max_new_tokens=12, seed=3))
    under = engine.compute_logprobs([r.prompt_ids for r in rows], [c.response_ids for c in drawn], 1.0)
    for completion, logprobs in zip(drawn, under, strict=True):
        assert completion.logprobs == pytest.approx(logprobs, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("family", REFUSED)
async def test_a_family_that_the_engine_cannot_sample_is_refused_and_the_old_one_serves_on(
    tmp_path: Path, family: str
) -> None:
    path = written(tmp_path / "m", family, REFUSED[family])
    async with policy_service(model=write_tiny_model(tmp_path / "good")) as (policy, _):
        before = (await policy.get_policy()).version
        with pytest.raises(CallError, match=rf"cannot sample this architecture \({family}\)") as caught:
            where = types_pb2.ModelLocation(uri=str(path))
            await policy.load_weights(header=header("load"), location=where)
        assert caught.value.code.name == "INVALID_ARGUMENT"
        reply = await policy.generate(prompts=asked([5, 6]), sampling=sampling())
        assert reply.rollouts[0].policy_version == before


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows with every try."""
    tries: list[int] = []
    measure: Callable[..., float] = transformers_loading._mismatch

    def counted(engine: Any, number: int) -> float:
        tries.append(number)
        return measure(engine, number)

    monkeypatch.setattr(transformers_loading, "_mismatch", counted)
    return tries


def test_an_architecture_that_answers_without_its_text_is_refused_though_nothing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, forward = write_tiny_model(tmp_path / "m"), LlamaForCausalLM.forward

    def forgetful(self: Any, position_ids: Any = None, **kwargs: Any) -> Any:
        """Every token that is drawn is read as if it were the text's first."""
        alone = position_ids is not None and position_ids.shape[1] == 1
        return forward(self, position_ids=0 * position_ids if alone else position_ids, **kwargs)

    tries = counting(monkeypatch)
    monkeypatch.setattr(LlamaForCausalLM, "forward", forgetful)
    with pytest.raises(WeightsError, match=r"\(llama\).*away from those of the same text as a whole"):
        TransformersLoader()(path, describe_plain(path))
    assert tries == [0, 1], "once is no proof: experts that tie may be chosen otherwise"


def test_new_weights_of_an_architecture_are_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries, load = counting(monkeypatch), TransformersLoader()
    for seed in (1, 2):
        path = write_tiny_model(tmp_path / str(seed), seed=seed)
        load(path, describe_plain(path))
    assert tries == [0]
    other = write_tiny_model(tmp_path / "gpt2", "gpt2")
    load(other, describe_plain(other))
    assert tries == [0, 0]


async def test_weights_that_are_no_numbers_load_and_say_so_when_they_are_sampled(tmp_path: Path) -> None:
    model = tiny_causal()
    with torch.no_grad():
        model.lm_head.weight[7] = torch.nan
    model.save_pretrained(tmp_path / "m")
    tiny_tokenizer().save_pretrained(tmp_path / "m")
    async with policy_service(model=tmp_path / "m") as (policy, _):
        with pytest.raises(CallError, match="are its weights") as caught:
            await policy.generate(prompts=asked([5, 6]), sampling=sampling())
        assert caught.value.reason == "non_finite"


@pytest.mark.parametrize("context", [6, 16])
def test_a_short_context_is_tried_as_far_as_it_goes(tmp_path: Path, context: int) -> None:
    path = write_tiny_model(tmp_path / "m", "gpt2", context=context)
    TransformersLoader()(path, describe_plain(path))


def test_weights_that_were_kept_in_half_precision_load(tmp_path: Path) -> None:
    tiny_causal().to(torch.bfloat16).save_pretrained(tmp_path / "m")
    tiny_tokenizer().save_pretrained(tmp_path / "m")
    engine = TransformersLoader()(tmp_path / "m", describe_plain(tmp_path / "m"))
    assert engine.model.dtype == torch.float32
    engine.model.to(torch.bfloat16)
    assert transformers_loading._is_tried(engine, tmp_path / "m"), "rounding alone refuses nothing"
