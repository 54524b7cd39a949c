"""A world of the size one asks for: random models and random prompts, to measure speed on.

    python -m benchmarks.world --output DIR --hidden 128 --layers 3 --vocabulary 1024 ...

writes DIR/model (causal), DIR/reward (scalar) and DIR/prompts.jsonl. Nothing here can be learned.
"""

import argparse
import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

SPECIAL = ["<pad>", "<eos>", "<unk>"]


def size_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that say how large the world is."""
    parser.add_argument("--hidden", type=int, default=128, help="width of the models")
    parser.add_argument("--intermediate", type=int, default=384, help="width inside their MLPs")
    parser.add_argument("--layers", type=int, default=3, help="layers of the models")
    parser.add_argument("--heads", type=int, default=4, help="attention heads")
    parser.add_argument("--vocabulary", type=int, default=1024, help="tokens in the vocabulary")
    parser.add_argument("--prompt-tokens", type=int, default=16, help="tokens of every prompt")
    parser.add_argument("--response-tokens", type=int, default=32, help="tokens of a response at most")
    parser.add_argument("--prompts", type=int, default=2048, help="distinct prompts")


def main() -> None:
    """Writes the world."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    size_arguments(parser)
    options = parser.parse_args()
    tokenizer = word_tokenizer(options.vocabulary)
    config = LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.hidden,
        intermediate_size=options.intermediate,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.heads,
        max_position_embeddings=2 * (options.prompt_tokens + options.response_tokens),
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    torch.manual_seed(options.seed)
    model = LlamaForCausalLM(config)
    never_end(model)
    save(model, tokenizer, options.output / "model")
    config.num_labels = 1
    save(LlamaForSequenceClassification(config), tokenizer, options.output / "reward")
    write_prompts(options.output / "prompts.jsonl", options)


@torch.no_grad()
def never_end(model: LlamaForCausalLM) -> None:
    """Makes the end of text impossible, so that every response has the length one asked for.

    The first dimension of the residual stream is held at a constant that no layer writes to, and the end
    token's logit is that constant times -30, whatever the norm makes of its size.
    """
    model.model.embed_tokens.weight[:, 0] = 0.1
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight[0] = 0.0
        layer.mlp.down_proj.weight[0] = 0.0
    model.lm_head.weight[model.config.eos_token_id] = 0.0
    model.lm_head.weight[model.config.eos_token_id, 0] = -30.0


def word_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """One token per word: "w17 w3" is two tokens, whatever stands beside them."""
    words = SPECIAL + [f"w{i}" for i in range(vocabulary - len(SPECIAL))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, path: Path) -> None:
    """A plain Hugging Face directory."""
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)


def write_prompts(path: Path, options: argparse.Namespace) -> None:
    """Random words, the same number in every prompt."""
    draw = random.Random(options.seed)
    with path.open("w") as file:
        for index in range(options.prompts):
            count = options.vocabulary - len(SPECIAL)
            words = [f"w{draw.randrange(count)}" for _ in range(options.prompt_tokens)]
            file.write(json.dumps({"prompt_id": f"p{index}", "text": " ".join(words)}) + "\n")


if __name__ == "__main__":
    main()
