"""Tiny models of three architectures, and a byte-level tokenizer trained on given texts."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.utils.logging import disable_progress_bar

FAMILIES = ("gpt2", "llama", "qwen2")
PAD, END, TURN = "<pad>", "</s>", "<turn>"

# Each message behind its speaker, ended by </s>: prefix-stable, and no message can be taken for another's.
CHAT_TEMPLATE = (
    "{% for message in messages %}<turn>{{ message['role'] }}\n{{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """Sizes of the model."""

    family: str = "llama"
    vocabulary: int = 1024
    layers: int = 2
    width: int = 64
    heads: int = 4
    context: int = 256

    def check(self) -> None:
        faults = [
            f"{name}: must be at least 1, is {value}"
            for name, value in vars(self).items()
            if name != "family" and value < 1
        ]
        if self.family not in FAMILIES:
            faults.append(f"family: must be one of {', '.join(FAMILIES)}, is {self.family!r}")
        if self.width % self.heads:
            faults.append(f"width: must be a multiple of heads ({self.heads}), is {self.width}")
        if self.vocabulary < 300:
            faults.append(f"vocabulary: must be at least 300 (256 bytes and a few), is {self.vocabulary}")
        if faults:
            raise ValueError("; ".join(faults))


def train_tokenizer(texts: Iterable[str], shape: Shape, chat: bool) -> PreTrainedTokenizerFast:
    """Byte-level BPE, that gives any text back exactly; without `chat` it has no chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=shape.vocabulary,
        special_tokens=[PAD, END, TURN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[TURN],
        clean_up_tokenization_spaces=False,
        model_max_length=shape.context,
    )
    fast.chat_template = CHAT_TEMPLATE if chat else None
    return fast


def write_model(directory: Path, texts: Iterable[str], shape: Shape, seed: int, chat: bool) -> None:
    """A plain Hugging Face directory, the same bytes for the same texts, shape and seed."""
    shape.check()
    tokenizer = train_tokenizer(texts, shape, chat)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = random_model(shape, len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id)
    disable_progress_bar()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def random_model(shape: Shape, vocabulary: int, end: int, pad: int) -> Any:
    """A model of the shape with random weights."""
    ids: dict[str, Any] = {
        "vocab_size": vocabulary,
        "eos_token_id": end,
        "bos_token_id": None,
        "pad_token_id": pad,
    }
    if shape.family == "gpt2":
        sizes: dict[str, Any] = {"n_embd": shape.width, "n_layer": shape.layers, "n_head": shape.heads}
        return GPT2LMHeadModel(GPT2Config(**ids, **sizes, n_positions=shape.context))
    modern: dict[str, Any] = {
        "hidden_size": shape.width,
        "intermediate_size": 3 * shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads // 2 or 1,
        "max_position_embeddings": shape.context,
        "tie_word_embeddings": shape.family == "qwen2",  # as the small ones of either family are
    }
    if shape.family == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**ids, **modern))
    return LlamaForCausalLM(LlamaConfig(**ids, **modern))
