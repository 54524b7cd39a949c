"""From messages to token ids: the one place that templates, for prompts, exchanges and demonstrations."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError as JinjaError
from transformers import AutoTokenizer, PreTrainedTokenizerFast

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": "..."}


class TemplateError(ValueError):
    """The chat template is missing, refuses these messages, or rewrites earlier turns when one is added."""


def load_tokenizer(path: Path) -> Any:
    """The tokenizer in a directory, as it was saved. Fetches nothing; raises what those libraries raise.

    A tokenizer of no particular class is read from its tokenizer.json alone: AutoTokenizer would put the
    model family's own splitting rules in the place of the saved ones (seen with Qwen2, transformers 5.23).
    """
    config_file = path / "tokenizer_config.json"
    config = json.loads(config_file.read_bytes()) if config_file.is_file() else {}
    plain = config.get("tokenizer_class") in ("TokenizersBackend", "PreTrainedTokenizerFast")
    factory = PreTrainedTokenizerFast if plain and (path / "tokenizer.json").is_file() else AutoTokenizer
    return factory.from_pretrained(path, local_files_only=True, trust_remote_code=False)


def render_text(tokenizer: Any, text: str) -> list[int]:
    """Ids of a plain text as it stands: one start token at most, and no end token, which no prompt has."""
    ids = list(tokenizer(text).input_ids)
    if tokenizer.bos_token_id is not None and ids[:2] == [tokenizer.bos_token_id] * 2:
        ids = ids[1:]  # the text spelt the start token out and the tokenizer put one before it
    if tokenizer.eos_token_id is not None and ids[-1:] == [tokenizer.eos_token_id]:
        ids = ids[:-1]
    return ids


def render_prompt(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Ids that a policy answers: the messages and the opening of the assistant's turn."""
    return _tokenise(tokenizer, _render(tokenizer, messages, open_turn=True))


def render_exchange(tokenizer: Any, prompt: str | Sequence[Message], response: str) -> list[int]:
    """Ids that a reward model reads: prompt, response and exactly one end-of-text id behind them.

    A plain prompt and its response are tokenised apart, as they are when a policy writes the response.
    """
    end = _end_id(tokenizer)
    if isinstance(prompt, str):
        ids = render_text(tokenizer, prompt) + _tokenise(tokenizer, response)
    else:
        ids = render_conversation(tokenizer, [*prompt, {"role": "assistant", "content": response}])[0]
    while ids[-1:] == [end]:
        ids = ids[:-1]
    return [*ids, end]


def response_length(tokenizer: Any, response: str) -> int:
    """Tokens of a response by itself, without template or special tokens: what length control counts."""
    return len(_tokenise(tokenizer, response))


def render_conversation(tokenizer: Any, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
    """Ids of a whole conversation, and which of them the assistant said, its closing end token included.

        user "hi", assistant "hello" -> <s> hi <reply> hello </s>
                                        F   F  F       T     T

    Each assistant turn is tokenised apart from what stands before it, since that is how it is sampled.
    What a template puts behind the last end token is dropped. Raises TemplateError when the rendering of a
    longer conversation does not begin with that of the shorter one.
    """
    ids: list[int] = []
    said: list[bool] = []
    rendered = ""
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        opening = _render(tokenizer, messages[:index], open_turn=True)
        turn_end = _render(tokenizer, messages[: index + 1], open_turn=False)
        before = _tokenise(tokenizer, _behind(opening, rendered))
        turn_ids, turn_said = _assistant_turn(tokenizer, _behind(turn_end, opening))
        ids += before + turn_ids
        said += [False] * len(before) + turn_said
        rendered = turn_end
    if messages and messages[-1]["role"] == "assistant":
        return _cut_after_end(ids, said, _end_id(tokenizer))
    rest = _tokenise(tokenizer, _behind(_render(tokenizer, messages, open_turn=False), rendered))
    return ids + rest, said + [False] * len(rest)


def render_last_message(tokenizer: Any, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
    """Ids of a whole conversation, and which of them belong to its last message, whoever says it.

    user "hi", assistant "hello", user "thanks" -> <s> hi <reply> hello </s> thanks
                                                   F   F  F       F     F    T
    """
    ids, said = render_conversation(tokenizer, messages)
    earlier = len(render_conversation(tokenizer, messages[:-1])[0]) if len(messages) > 1 else 0
    by_assistant = messages[-1]["role"] == "assistant"
    return ids, [place >= earlier and (said[place] or not by_assistant) for place in range(len(ids))]


def _assistant_turn(tokenizer: Any, text: str) -> tuple[list[int], list[bool]]:
    """Ids of one turn and which the assistant said: all up to its last end token, not the newline behind."""
    ids = _tokenise(tokenizer, text)
    end = _end_id(tokenizer)
    spoken = len(ids) - ids[::-1].index(end) if end in ids else len(ids)
    return ids, [place < spoken for place in range(len(ids))]


def _cut_after_end(ids: list[int], said: list[bool], end: int) -> tuple[list[int], list[bool]]:
    """Ends at the last thing said, which is made the end token where the template has none of its own."""
    length = len(said) - said[::-1].index(True) if True in said else len(said)
    ids, said = ids[:length], said[:length]
    if ids[-1:] != [end]:
        return [*ids, end], [*said, True]
    return ids, said


def _behind(longer: str, shorter: str) -> str:
    if not longer.startswith(shorter):
        raise TemplateError(
            "the chat template is not prefix-stable: adding a turn changes the text before it "
            f"(expected {longer[:200]!r} to begin with {shorter[:200]!r})"
        )
    return longer[len(shorter) :]


def _render(tokenizer: Any, messages: Sequence[Message], *, open_turn: bool) -> str:
    if not tokenizer.chat_template:
        raise TemplateError(
            "the tokenizer has no chat template; send text or token ids, or put a chat_template.jinja into "
            "the model's directory"
        )
    try:
        return str(
            tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=open_turn)
        )
    except JinjaError as error:
        raise TemplateError(f"the chat template refuses these messages: {error}") from None


def _tokenise(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def _end_id(tokenizer: Any) -> int:
    if tokenizer.eos_token_id is None:
        raise TemplateError("the tokenizer has no end-of-text token")
    return int(tokenizer.eos_token_id)


def tokenizer_sha256(tokenizer: Any) -> str:
    """SHA-256 (hex) of what decides the ids: the vocabulary, its rules and special tokens.

    Takes a tokenizer or a directory. Two directories whose files differ in formatting only are equal.
    """
    if isinstance(tokenizer, (str, Path)):
        tokenizer = load_tokenizer(Path(tokenizer))
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    rules["truncation"] = rules["padding"] = None  # left over from calls, not part of the tokenizer
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    content = json.dumps({"rules": rules, "special": special}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def template_sha256(tokenizer: Any) -> str:
    """SHA-256 (hex) of the chat template; "" when there is none."""
    template = tokenizer.chat_template
    return hashlib.sha256(str(template).encode()).hexdigest() if template else ""
