"""Models in memory: what loads, what is refused by name, and that saving keeps every bit."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from services.models import BUILDING, load_causal, load_scalar, save_causal, save_scalar
from services.sequences import pad_left, pad_right
from services.weights import WeightsError
from tests.tiny_models import FAMILIES, PAD, tiny_causal, tiny_tokenizer, write_tiny_model

ROWS = [[5, 6, 7, 2], [8] * 11 + [2], [9, 2], [10, 11, 2]]


def digests(path: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in path.iterdir()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tie", [True, False])
def test_saving_keeps_every_weight_and_gives_the_same_bytes_each_time(
    tmp_path: Path, family: str, tie: bool
) -> None:
    first = load_causal(write_tiny_model(tmp_path / "first", family, tie=tie))
    save_causal(first.model, first.tokenizer, tmp_path / "second")
    second = load_causal(tmp_path / "second")
    save_causal(second.model, second.tokenizer, tmp_path / "elsewhere" / "third")
    assert digests(tmp_path / "second") == digests(tmp_path / "elsewhere" / "third")
    output, inputs = second.model.get_output_embeddings(), second.model.get_input_embeddings()
    assert (output.weight is inputs.weight) == tie
    for name, weight in first.model.state_dict().items():
        assert torch.equal(weight, second.model.state_dict()[name]), name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_loaded_model_says_what_it_takes(tmp_path: Path, family: str) -> None:
    loaded = load_causal(write_tiny_model(tmp_path / "m", family, context=48))
    assert (loaded.context_length, loaded.vocabulary_size, loaded.eos_ids, loaded.pad_id) == (48, 64, [2], 0)
    assert not loaded.model.training
    assert loaded.tokenizer("w0 w1 </s>").input_ids == [5, 6, 2]


def test_dropout_is_off_even_in_training_mode(tmp_path: Path) -> None:
    model = load_causal(write_tiny_model(tmp_path / "m", "gpt2")).model.train()
    ids = torch.tensor(ROWS[1:2])
    assert torch.equal(model(ids).logits, model(ids).logits)


def test_every_end_id_of_the_generation_config_ends_a_text_and_none_of_them_pads(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "m")
    (path / "generation_config.json").write_text('{"eos_token_id": [4, 2, 0]}')
    loaded = load_causal(path)
    assert loaded.eos_ids == [2, 4, 0]  # the tokenizer's own first
    assert loaded.pad_id == 1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tie", [True, False])
def test_a_scalar_model_is_a_directory_that_transformers_scores_alike(
    tmp_path: Path, family: str, tie: bool
) -> None:
    causal = write_tiny_model(tmp_path / "causal", family, tie=tie)
    made = load_scalar(causal, initialise_head=True, seed=7)
    backbone = load_causal(causal).model.base_model.state_dict()
    assert all(torch.equal(w, backbone[n]) for n, w in made.model.backbone.state_dict().items())

    save_scalar(made.model, made.tokenizer, tmp_path / "scalar")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "scalar").eval()
    ids, mask = pad_right(ROWS, PAD)
    with torch.no_grad():
        scores = load_scalar(tmp_path / "scalar").model(ids, mask)
        assert torch.equal(scores, made.model(ids, mask))
        assert torch.allclose(scores, theirs(input_ids=ids, attention_mask=mask).logits[:, 0], atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_score_is_the_same_alone_and_under_both_paddings(tmp_path: Path, family: str) -> None:
    model = load_scalar(write_tiny_model(tmp_path / "m", family), initialise_head=True, seed=1).model
    with torch.no_grad():
        right, left = model(*pad_right(ROWS, PAD)), model(*pad_left(ROWS, PAD))
        alone = torch.cat([model(*pad_right([row], PAD)) for row in ROWS])
        values = model.forward_positions(pad_right(ROWS, PAD)[0])
    assert torch.allclose(right, alone, atol=1e-5)
    assert torch.allclose(left, alone, atol=1e-5)
    assert torch.allclose(values[torch.arange(4), torch.tensor([3, 11, 1, 2])], alone, atol=1e-5)


@pytest.mark.known_answer("H6")
def test_a_new_head_has_standard_deviation_one_over_root_of_width_plus_one() -> None:
    from services.models import _initialise_head

    published = {768: 0.036060922298730945, 1024: 0.031234752377721213, 4096: 0.015623093000542114}
    for width, std in published.items():
        head = torch.nn.Linear(width, 64, bias=False)  # 64 outputs only to have enough draws to measure
        _initialise_head(head, seed=1)
        assert float(head.weight.std()) == pytest.approx(std, rel=0.015)
        assert abs(float(head.weight.mean())) < std / 50


def test_a_new_head_is_drawn_from_its_seed_and_from_nothing_else(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "m")

    def head(seed: int) -> torch.Tensor:
        torch.rand(3)  # moves the global stream
        return load_scalar(path, initialise_head=True, seed=seed).model.score.weight

    assert torch.equal(head(1), head(1))
    assert not torch.equal(head(1), head(2))
    with pytest.raises(ValueError, match="seed"):
        load_scalar(path, initialise_head=True)


@pytest.mark.parametrize("tie", [True, False])
def test_neither_kind_of_model_passes_for_the_other(tmp_path: Path, tie: bool) -> None:
    causal = write_tiny_model(tmp_path / "causal", tie=tie)
    with pytest.raises(WeightsError, match="lacks weights of a scalar model: score.weight"):
        load_scalar(causal)
    made = load_scalar(causal, initialise_head=True, seed=1)
    save_scalar(made.model, made.tokenizer, tmp_path / "scalar")
    with pytest.raises(WeightsError, match="lacks weights of a causal language model"):
        load_causal(tmp_path / "scalar")


def cut(name: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = (path / name).read_bytes()
        (path / name).write_bytes(content[: len(content) // 2])

    return damage


def pickled(path: Path) -> None:
    (path / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(1)}, path / "pytorch_model.bin")


def shard_gone(path: Path) -> None:
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def reshaped(path: Path) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))


def deepened(path: Path) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda p: (p / "config.json").unlink(), r"config\.json: missing"),
        (cut("config.json"), r"config\.json: is not a model's config"),
        (lambda p: (p / "config.json").write_text('{"model_type": "nonsense"}'), r"config\.json: is not"),
        (cut("model.safetensors"), r"model\.safetensors: .* half-written"),
        (lambda p: (p / "model.safetensors").write_bytes(b"PK\x03\x04"), r"model\.safetensors: is cut off"),
        (
            lambda p: (p / "model.safetensors").write_bytes(b"\x09" + bytes(7) + b"not json!"),
            "safetensors file",
        ),
        (pickled, "pickled weights are never loaded"),
        (shard_gone, r"model-00002-of-00002\.safetensors: missing"),
        (cut("tokenizer.json"), r"tokenizer\.json: does not load"),
        (reshaped, "does not load as AutoModelForCausalLM"),
        (deepened, "lacks weights of a causal language model"),
    ],
)
def test_a_directory_that_cannot_be_served_is_refused_by_name(
    tmp_path: Path, damage: Callable[[Path], None], says: str
) -> None:
    path = write_tiny_model(tmp_path / "m")
    damage(path)
    with pytest.raises(WeightsError, match=says):
        load_causal(path)


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "m")
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["extra"])
    tokenizer.save_pretrained(path)
    with pytest.raises(WeightsError, match="knows 65 tokens, the model embeds 64"):
        load_causal(path)


def test_loading_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_scalar(write_tiny_model(tmp_path / "m"), initialise_head=True, seed=1)
    save_causal(tiny_causal(), tiny_tokenizer(), tmp_path / "n")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


@pytest.mark.parametrize("family", ["gemma2", "gptj", "bloom"])
def test_a_family_without_fused_attention_loads_too(tmp_path: Path, family: str) -> None:
    small: dict[str, Any] = {"vocab_size": 64, "pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": 2}
    if family == "gemma2":
        small |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
        small |= {"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 64}
    else:
        small |= {
            "n_embd": 32,
            "hidden_size": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 64,
            "rotary_dim": 4,
        }
        small |= {"seq_length": 64}
    with BUILDING:
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **small)).eval()
    model.save_pretrained(tmp_path / "m")
    tiny_tokenizer().save_pretrained(tmp_path / "m")
    loaded = load_causal(tmp_path / "m")
    ids = torch.tensor(ROWS[1:2])
    assert torch.equal(loaded.model(ids).logits, model(ids).logits)
