"""What an engine has to do, so that transformers, vLLM and TGI stand behind one policy service.

An engine holds one set of weights. `LoadEngine` makes one from a verified directory; it is called while the
engine before it goes on answering. Adding one is a file like vllm_engine.py and a row in engines.py;
tests/policy/engine_contract.py holds all of them to the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from services.weights import Manifest


class FinishReason(Enum):
    """Why a completion ended."""

    END_OF_TEXT = "end_of_text"
    STOP_TEXT = "stop_text"
    LENGTH = "length"


class LogprobKind(Enum):
    """Of which distribution a log-prob is the logarithm."""

    RAW = "raw"  # the model's own, whatever the temperature
    TEMPERATURE = "temperature"  # logits / temperature, over the whole vocabulary
    PROCESSED = "processed"  # after temperature, top-k and top-p, renormalised over what is kept


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn: temperature > 0, 0 < top_p <= 1, top_k 0 for all, max_new_tokens >= 1."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 16
    stop: tuple[str, ...] = ()
    seed: int = 0

    @property
    def whole_vocabulary(self) -> bool:
        """True when no token is filtered out."""
        return self.top_k == 0 and self.top_p == 1.0


@dataclass(frozen=True)
class Row:
    """One completion to draw: Row([1, 6, 7, 4], sample_index=2) is the third sample of that prompt."""

    prompt_ids: Sequence[int]
    sample_index: int


@dataclass(frozen=True)
class Completion:
    """What was drawn: ids with the end-of-text id where there is one, and one log-prob per id, in nats."""

    response_ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
    text: str  # without special tokens


class GivenLogprobs(Enum):
    """For which temperatures an engine gives log-probs of ids that it did not draw."""

    NONE = "none"
    TEMPERATURE_ONE = "temperature_one"
    ANY_TEMPERATURE = "any_temperature"


@dataclass(frozen=True)
class Capabilities:
    """What an engine can do; the orchestrator plans by it (GetPolicy)."""

    name: str
    logprob_kinds: tuple[LogprobKind, ...]
    hot_swap: bool  # new weights without a restart
    restarts: bool = (
        False  # new weights by a restart that the engine is given; one of the two, or none at all
    )
    stop_texts: int = 1024  # of one call at most; 0 takes none
    top_k: bool = True
    seeds: bool = True  # a row's draws are decided by seed, prompt and sample index
    given_logprobs: GivenLogprobs = GivenLogprobs.ANY_TEMPERATURE
    deterministic: bool = True  # the same call gives the same bits, whatever else runs


class Engine(Protocol):
    """One set of weights that answers. Called from one thread at a time."""

    capabilities: Capabilities
    tokenizer: Any
    tokenizer_sha256: str
    template_sha256: str  # "" where the tokenizer has no chat template
    context_length: int  # tokens of prompt and response together
    vocabulary_size: int  # ids are below this
    eos_ids: list[int]
    pad_id: int

    def generate(self, rows: Sequence[Row], sampling: Sampling) -> list[Completion]:
        """Draws one completion per row, in order. A row's draws do not depend on the rows beside it."""

    def compute_logprobs(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], temperature: float
    ) -> list[list[float]]:
        """Log-prob of each response id, in nats, under logits / temperature over the whole vocabulary."""

    def logprob_kind(self, sampling: Sampling) -> LogprobKind:
        """The kind that `generate` returns for this sampling."""


LoadEngine = Callable[[Path, Manifest], Engine]
