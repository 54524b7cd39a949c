"""Models in memory: loaded from Hugging Face directories, saved back as the same bytes for the same weights.

Only safetensors is read and nothing is fetched: what is not in the directory is an error that names the file.
"""

import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GenerationConfig,
    PretrainedConfig,
)
from transformers.utils import logging as transformers_logging

from services.model_files import weights_fault
from services.sequences import is_right_padded, last_token_index, position_ids
from services.status import is_disk_full, is_out_of_memory
from services.templates import load_tokenizer
from services.weights import WeightsError, check_safetensors

# transformers builds a model under patches of its own classes and of torch's default dtype, which are the
# whole process's. Two threads inside at once can leave one behind, and then no model ties its embeddings.
BUILDING = threading.RLock()

# How a config says its context, where transformers does not rename it.
CONTEXT_NAMES = ("max_position_embeddings", "seq_length", "max_seq_len")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")


@dataclass(frozen=True)
class LoadedCausal:
    """A language model ready to answer, in eval mode with dropout off."""

    model: Any
    tokenizer: Any
    context_length: int  # tokens of prompt and response together
    vocabulary_size: int  # ids are below this
    eos_ids: list[int]  # every id that ends a text, the tokenizer's own first
    pad_id: int  # fills rectangles; never an end id


class ScalarModel(nn.Module):
    """One number per position: a backbone and a linear head without bias. Reward models and critics.

    Wraps a transformers sequence-classification model with one label, which is what it is saved as.
    """

    def __init__(self, classifier: Any) -> None:
        super().__init__()
        self.classifier = classifier

    @property
    def backbone(self) -> nn.Module:
        """The model without its head."""
        return self.classifier.base_model

    @property
    def score(self) -> nn.Linear:
        """The head: hidden size to 1, no bias."""
        return self.classifier.score

    def forward_positions(self, input_ids_BT: Tensor, attention_mask_BT: Tensor | None = None) -> Tensor:
        """values_BT in float32; without a mask the rows must be padded on the right (or not at all)."""
        padding: dict[str, Tensor] = {}
        if attention_mask_BT is not None and not is_right_padded(attention_mask_BT):
            padding = {"attention_mask": attention_mask_BT, "position_ids": position_ids(attention_mask_BT)}
        hidden_BTD = self.backbone(input_ids=input_ids_BT, use_cache=False, **padding).last_hidden_state
        return self.score(hidden_BTD).squeeze(-1).float()

    def forward(self, input_ids_BT: Tensor, attention_mask_BT: Tensor) -> Tensor:
        """scores_B at each row's last real token, whichever side the padding is on."""
        values_BT = self.forward_positions(input_ids_BT, attention_mask_BT)
        return values_BT.gather(1, last_token_index(attention_mask_BT)[:, None]).squeeze(1)


@dataclass(frozen=True)
class LoadedScalar:
    """A scalar model ready to score, in eval mode with dropout off."""

    model: ScalarModel
    tokenizer: Any
    context_length: int
    vocabulary_size: int
    eos_ids: list[int]
    pad_id: int


def load_causal(
    path: Path, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> LoadedCausal:
    """The causal language model in a directory. Raises WeightsError that names the file and the fault."""
    model, tokenizer, missing = _load(AutoModelForCausalLM, path, dtype, {})
    if any("SequenceClassification" in name for name in model.config.architectures or []):
        missing = missing or ["lm_head.weight"]  # with tied embeddings a scalar model would pass for one
    if missing:
        raise WeightsError(path, f"lacks weights of a causal language model: {', '.join(missing[:3])}")
    return LoadedCausal(model.to(device).eval(), tokenizer, **_vocabulary(path, model, tokenizer))


def describe_causal(path: Path) -> LoadedCausal:
    """As load_causal, for a model whose weights another process holds: ours has none (it is on `meta`).

    Raises WeightsError that names the file and the fault.
    """
    _check_files(path)
    try:
        with BUILDING, torch.device("meta"):
            model = AutoModelForCausalLM.from_config(_config(path, {}), trust_remote_code=False)
        if (path / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(path, local_files_only=True)
    except Exception as error:
        raise _fault(error, path / "config.json", "is no causal language model's") from None
    tokenizer = _tokenizer(path)
    return LoadedCausal(model.eval(), tokenizer, **_vocabulary(path, model, tokenizer))


def load_scalar(
    path: Path,
    *,
    initialise_head: bool = False,
    seed: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> LoadedScalar:
    """The scalar model in a directory, or a new one on the backbone of any model with `initialise_head`.

    A new head is drawn from `seed` with standard deviation 1/sqrt(hidden size + 1) and has no bias.
    """
    if initialise_head and seed is None:
        raise ValueError("seed: a new head needs one")
    model, tokenizer, missing = _load(AutoModelForSequenceClassification, path, dtype, {"num_labels": 1})
    if getattr(model, "score", None) is None or model.score.bias is not None:
        raise WeightsError(path / "config.json", f"{type(model).__name__} has no linear head named score")
    if initialise_head:
        missing = [name for name in missing if name != "score.weight"]
        _initialise_head(model.score, seed)
    if missing:
        raise WeightsError(path, f"lacks weights of a scalar model: {', '.join(missing[:3])}")
    vocabulary = _vocabulary(path, model, tokenizer)
    model.config.pad_token_id = vocabulary["pad_id"]  # transformers refuses batches without one
    return LoadedScalar(ScalarModel(model).to(device).eval(), tokenizer, **vocabulary)


def _initialise_head(score: nn.Linear, seed: int | None) -> None:
    generator = torch.Generator().manual_seed(seed or 0)
    weight = torch.randn(score.weight.shape, generator=generator) / (score.in_features + 1) ** 0.5
    with torch.no_grad():
        score.weight.copy_(weight)


def save_causal(model: Any, tokenizer: Any, path: Path, weights: dict[str, Any] | None = None) -> None:
    """A plain Hugging Face directory; the same weights give the same bytes, wherever they came from.

    `weights` is a state dict that stands for the model's own, where that lies on several ranks.
    """
    model.save_pretrained(path, state_dict=weights)
    tokenizer.save_pretrained(path)


def save_scalar(model: ScalarModel, tokenizer: Any, path: Path) -> None:
    """A sequence-classification directory with one label, which transformers loads as it stands."""
    save_causal(model.classifier, tokenizer, path)


def set_threads(threads: int) -> None:
    """Threads of one model operation. Results are repeatable for an unchanged count only."""
    torch.set_num_threads(threads)


def _load(
    factory: Any, path: Path, dtype: torch.dtype, overrides: dict[str, Any]
) -> tuple[Any, Any, list[str]]:
    """(model, tokenizer, names of weights that the directory lacks)."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    _check_files(path)
    config = _config(path, overrides)
    try:
        with BUILDING:
            model, info = factory.from_pretrained(
                path,
                config=config,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=dtype,
                output_loading_info=True,
            )
    except Exception as error:
        if (quantised := getattr(config, "quantization_config", None)) is not None:
            raise _fault(error, path / "config.json", _quantised(quantised)) from None
        raise _fault(error, path, f"does not load as {factory.__name__}") from None
    return model, _tokenizer(path), sorted(info["missing_keys"])


def _config(path: Path, overrides: dict[str, Any]) -> PretrainedConfig:
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False, **overrides)
    except Exception as error:
        raise _fault(error, path / "config.json", "is not a model's config") from None
    _dropout_off(config)
    return config


def _tokenizer(path: Path) -> Any:
    try:
        return load_tokenizer(path)
    except Exception as error:  # the tokenizers library raises bare Exception for a damaged file
        raise _fault(error, path / "tokenizer.json", "does not load") from None


def _check_files(path: Path) -> None:
    """Names the fault of a directory before transformers words it in its own way."""
    if not path.is_dir():
        raise WeightsError(path, "the directory does not exist")
    weights = sorted(path.glob("*.safetensors"))
    fault = weights_fault(file.name for file in path.iterdir())
    if fault is not None:
        raise WeightsError(path / fault[0], fault[1])
    for file in weights:
        check_safetensors(file)
    index = path / "model.safetensors.index.json"
    if index.is_file():
        for shard in sorted(set(_weight_map(index).values()) - {file.name for file in weights}):
            raise WeightsError(path / shard, f"missing, though {index.name} names it")
    _check_config(path / "config.json")
    if not any((path / name).is_file() for name in TOKENIZER_FILES):
        raise WeightsError(path / "tokenizer.json", "missing, and so is every other file of a tokenizer")


def _check_config(file: Path) -> None:
    """Refuses a model that would need code of its own: trust_remote_code is never set."""
    if not file.is_file():
        raise WeightsError(file, "missing")
    try:
        config = json.loads(file.read_bytes())
        kind, own_code = config.get("model_type"), config.get("auto_map")
        if not all(isinstance(name, str) for name in config.get("architectures") or []):
            raise TypeError("architectures: must be a list of names")
    except (ValueError, AttributeError, TypeError) as error:
        raise WeightsError(file, f"is not a model's config ({_line(error)})") from None
    if own_code and kind not in CONFIG_MAPPING:
        raise WeightsError(
            file,
            f"is of a model type that brings its own code ({kind!r}, by auto_map), and trust_remote_code is "
            "never set: take a model that transformers knows by itself",
        )


def _weight_map(index: Path) -> dict[str, str]:
    try:
        return dict(json.loads(index.read_bytes())["weight_map"])
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(index, f"is not an index of weights ({error!r})") from None


def _dropout_off(config: PretrainedConfig) -> None:
    """Sets every dropout rate to 0: log-probs have to repeat in training as in serving."""
    for name, value in vars(config).items():
        if isinstance(value, float) and (name.endswith("dropout") or name.endswith("pdrop")):
            setattr(config, name, 0.0)


def _vocabulary(path: Path, model: Any, tokenizer: Any) -> dict[str, Any]:
    """The facts of a loaded model that decide which ids and lengths it takes."""
    config = model.config.get_text_config()
    context = next((found for name in CONTEXT_NAMES if (found := getattr(config, name, None))), None)
    if not context:
        raise WeightsError(path / "config.json", "does not say max_position_embeddings")
    size = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > size:
        raise WeightsError(path / "tokenizer.json", f"knows {len(tokenizer)} tokens, the model embeds {size}")
    if tokenizer.eos_token_id is None:
        raise WeightsError(
            path / "tokenizer_config.json",
            "names no eos_token, so no text could end: set it to the token that ends the model's texts",
        )
    eos_ids = _eos_ids(model, tokenizer)
    pad_id = tokenizer.pad_token_id
    if pad_id is None or pad_id in eos_ids:
        # Any id can fill a rectangle, as lengths and masks say what is real; an end id would read as one.
        pad_id = next(i for i in range(size) if i not in eos_ids)
    return {"context_length": context, "vocabulary_size": size, "eos_ids": eos_ids, "pad_id": pad_id}


def _eos_ids(model: Any, tokenizer: Any) -> list[int]:
    generation = getattr(model, "generation_config", None)
    stated = [tokenizer.eos_token_id, getattr(generation, "eos_token_id", None), model.config.eos_token_id]
    ids: list[int] = []
    for value in stated:
        for token in value if isinstance(value, list) else [value]:
            if token is not None and token not in ids:
                ids.append(int(token))
    return ids


def _quantised(stated: Any) -> str:
    method = stated.get("quant_method") if isinstance(stated, dict) else getattr(stated, "quant_method", None)
    return f"has quantised weights ({method}), which do not load here: give the model in full precision"


def _fault(error: Exception, file: Path, what: str) -> Exception:
    """A WeightsError of what transformers raised: anything, for a config that nobody foresaw.

    A full memory or disk says nothing of the file, and stays what it is.
    """
    if isinstance(error, WeightsError) or is_out_of_memory(error) or is_disk_full(error):
        return error
    return WeightsError(file, f"{what} ({_line(error) or type(error).__name__})")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
