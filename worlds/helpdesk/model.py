"""A tiny Llama-shaped model made from nothing: random weights, its own tokenizer and template."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from worlds.helpdesk import words

PAD, START, END, UNKNOWN, REPLY = "<pad>", "<s>", "</s>", "<unk>", "<reply>"

# What the customer says stands bare and the agent's turn is opened by <reply> and ended by </s>.
# No token stands between the end of a reply and the customer's reaction, so that a model of whole
# logs has to know at </s> how the reply will be taken: the place where a reward head reads.
CHAT_TEMPLATE = (
    "<s>{% for message in messages %}"
    "{% if message['role'] == 'assistant' %} <reply> {{ message['content'] }} </s>"
    "{% else %} {{ message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %} <reply>{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """Sizes of the model; with two layers some seeds never learn to match the item."""

    layers: int = 3
    width: int = 128
    heads: int = 4
    intermediate: int = 384
    context: int = 128
    init_std: float = 0.08  # of the order of 1/sqrt(width); at the usual 0.02 the item is never copied


def train_tokenizer(shape: Shape, further: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """A word-level tokenizer of the world's and further words, that gives text back exactly as it was."""
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    specials = [PAD, START, END, UNKNOWN, REPLY]
    trainer = trainers.WordLevelTrainer(special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(sorted({*words.every_word(), *further}), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=START,
        eos_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=[REPLY],
        clean_up_tokenization_spaces=False,
        model_max_length=shape.context,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def write_model(directory: Path, shape: Shape, seed: int, further: Sequence[str] = ()) -> None:
    """A plain Hugging Face directory, the same bytes for the same shape, seed and further words."""
    tokenizer = train_tokenizer(shape, further)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.width,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=shape.context,
        initializer_range=shape.init_std,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    disable_progress_bar()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
