"""Loads the engine on transformers, and refuses what it cannot sample before anything is sampled.

The engine keeps a cache and prompts that are padded on the left. Recurrent and hybrid architectures carry a
state beside that cache, or take none at all: some fail, some answer with tokens of a text that they forgot.
"""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path
from statistics import fmean

import torch

from services.errors import PreconditionError
from services.models import load_causal
from services.policy.engine import Row, Sampling
from services.policy.transformers_engine import Batch, TransformersEngine
from services.sequences import score_rows
from services.status import is_disk_full, is_out_of_memory
from services.weights import Manifest, WeightsError

_PROMPT_TOKENS = (2, 5)  # of the two rows: the shorter is padded
_NEW_TOKENS = 6
_TRIES = 2  # where two experts score alike, rounding may choose another one, once in a great while


class TransformersLoader:
    """A LoadEngine (see engine.py). An architecture is tried once, and not again for every new version."""

    def __init__(self, device: str = "cpu") -> None:
        self._device = device
        self._tried: set[str] = set()

    def __call__(self, path: Path, manifest: Manifest) -> TransformersEngine:
        """The engine of a model directory. Raises WeightsError for one that it would not sample rightly."""
        engine = TransformersEngine(load_causal(path, device=self._device))
        config = engine.model.config.to_json_string()
        if config not in self._tried and _is_tried(engine, path):
            self._tried.add(config)
        return engine


def _is_tried(engine: TransformersEngine, path: Path) -> bool:
    """Whether the engine's log-probs were seen to be those of the whole text; False where nothing tells.

    WeightsError where they are not. Weights that are no numbers tell nothing: whoever samples them hears so.
    """
    mismatch = 0.0
    for number in range(_TRIES):
        try:
            mismatch = _mismatch(engine, number)
        except PreconditionError:
            return False
        except Exception as error:
            if is_out_of_memory(error) or is_disk_full(error):
                raise
            said = " ".join(str(error).split())[:200]
            raise _refusal(engine, path, f"{type(error).__name__}: {said}") from None
        if math.isnan(mismatch):
            return False
        if mismatch <= _tolerance(engine):
            return True
    what = f"its log-probs as sampled are {mismatch:.2g} away from those of the same text as a whole"
    raise _refusal(engine, path, what)


@torch.inference_mode()
def _mismatch(engine: TransformersEngine, number: int) -> float:
    """Mean difference of a log-prob as sampled and of the whole text, relative where that is below -1.

    The mean, since in bf16 a logit of 20 is rounded by up to 0.06, and the largest of a dozen by more.
    """
    special = set(engine.tokenizer.all_special_ids)
    plain = (each for each in range(engine.vocabulary_size) if each not in special)
    ids = list(islice(plain, 64)) or [engine.pad_id]
    prompts = [[ids[(number + 7 * i + n) % len(ids)] for i in range(n)] for n in _PROMPT_TOKENS]
    room = max(1, engine.context_length - max(_PROMPT_TOKENS))
    sampling = Sampling(max_new_tokens=min(_NEW_TOKENS, room))
    batch = _Trial(engine, [Row(prompt, 0) for prompt in prompts], sampling)
    while batch.step():
        pass
    whole = score_rows(engine.model, prompts, batch.responses, 1.0, engine.pad_id)
    pairs = [pair for row in zip(batch.logprobs, whole, strict=True) for pair in zip(*row, strict=True)]
    return fmean(abs(sampled - scored) / max(1.0, abs(scored)) for sampled, scored in pairs)


class _Trial(Batch):
    """Two rows that no token ends; the first leaves the batch after its second token."""

    def _append(self, drawn: list[int], logprobs: list[float]) -> None:
        super()._append(drawn, logprobs)
        self._done = [self._place > 1, False]


def _tolerance(engine: TransformersEngine) -> float:
    """What rounding alone may come to: 7e-4 in float32, 0.06 in float16, 0.18 in bfloat16.

    An architecture that forgets its text is off by tenths where its weights are random, and by nats where
    they are trained.
    """
    kinds = {each.dtype for each in engine.model.parameters() if each.is_floating_point()}
    return 2 * max(torch.finfo(kind).eps for kind in kinds) ** 0.5


def _refusal(engine: TransformersEngine, path: Path, why: str) -> WeightsError:
    kind = engine.model.config.model_type
    what = f"the transformers engine cannot sample this architecture ({kind}): take a model whose layers are "
    what += f"attention, or an engine that serves this one, such as --engine vllm ({why})"
    return WeightsError(path / "config.json", what)
