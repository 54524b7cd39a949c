"""Makes tiny real Hugging Face directories (Llama, GPT-2, Qwen2) in milliseconds, for tests of every service.

path = write_tiny_model(tmp_path / "policy", "llama", seed=1)
"""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
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

from services.models import BUILDING

FAMILIES = ("llama", "gpt2", "qwen2")
PAD, START, END, UNKNOWN, REPLY = range(5)
WORDS = [f"w{i}" for i in range(59)]
VOCABULARY = ["<pad>", "<s>", "</s>", "<unk>", "<reply>", *WORDS]
CHAT_TEMPLATE = (
    "<s>{% for message in messages %}"
    "{% if message['role'] == 'assistant' %} <reply> {{ message['content'] }} </s>"
    "{% else %} {{ message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %} <reply>{% endif %}"
)


def tiny_tokenizer(chat_template: str | None = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    """Words w0..w58 split at spaces; ids 0..4 are <pad> <s> </s> <unk> <reply>."""
    words = {word: index for index, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocab=words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<reply>"],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = chat_template
    return fast


def tiny_causal(
    family: str = "llama",
    *,
    seed: int = 0,
    layers: int = 2,
    width: int = 32,
    heads: int = 4,
    context: int = 64,
    tie: bool = False,
    init_std: float = 0.2,
) -> Any:
    """A random model of 64 tokens; the large initial scale makes its distributions far from uniform.

    Not larger: at 0.3, log-probs of float32 at temperature 0.5 lie 1.5e-5 from exact ones by themselves.
    """
    ids: dict[str, Any] = {"pad_token_id": PAD, "bos_token_id": START, "eos_token_id": END}
    common: dict[str, Any] = {
        "vocab_size": len(VOCABULARY),
        "initializer_range": init_std,
        "tie_word_embeddings": tie,
        **ids,
    }
    modern: dict[str, Any] = {
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": context,
    }
    with BUILDING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if family == "llama":
            return LlamaForCausalLM(LlamaConfig(**common, **modern)).eval()
        if family == "qwen2":
            return Qwen2ForCausalLM(Qwen2Config(**common, **modern)).eval()
        assert family == "gpt2", family
        shape: dict[str, Any] = {"n_embd": width, "n_layer": layers, "n_head": heads, "n_positions": context}
        return GPT2LMHeadModel(GPT2Config(**common, **shape)).eval()


def write_tiny_model(directory: Path, family: str = "llama", **shape: Any) -> Path:
    """A plain Hugging Face directory of `tiny_causal(family, **shape)`; returns the directory."""
    disable_progress_bar()
    tiny_causal(family, **shape).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return directory
