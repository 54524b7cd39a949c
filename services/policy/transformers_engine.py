"""The engine on transformers: a chunk is one batch with a cache, run by itself so that its bits repeat."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from services.errors import PreconditionError
from services.models import LoadedCausal
from services.policy.cache import roomy_cache
from services.policy.engine import Capabilities, Completion, FinishReason, LogprobKind, Row, Sampling
from services.policy.sampling import draw, uniforms
from services.policy.stops import Stops
from services.sequences import TokenRows, pad_left, position_ids, score_rows
from services.templates import template_sha256, tokenizer_sha256

# Rows that are done leave the batch once they are this share of it: copying the cache costs about a step.
_DONE_SHARE = 0.25


class TransformersEngine:
    """An Engine (see engine.py) on a transformers model."""

    capabilities = Capabilities(
        "transformers", (LogprobKind.TEMPERATURE, LogprobKind.PROCESSED), hot_swap=True
    )

    def __init__(self, loaded: LoadedCausal) -> None:
        self.model = loaded.model.requires_grad_(False)
        self.tokenizer = loaded.tokenizer
        # Once, and not on the event loop: the digest of a large vocabulary takes most of a second.
        self.tokenizer_sha256 = tokenizer_sha256(loaded.tokenizer)
        self.template_sha256 = template_sha256(loaded.tokenizer)
        self.context_length, self.vocabulary_size = loaded.context_length, loaded.vocabulary_size
        self.eos_ids, self.pad_id = loaded.eos_ids, loaded.pad_id

    def logprob_kind(self, sampling: Sampling) -> LogprobKind:
        """TEMPERATURE over the whole vocabulary, PROCESSED once tokens are filtered out."""
        return LogprobKind.TEMPERATURE if sampling.whole_vocabulary else LogprobKind.PROCESSED

    def compute_logprobs(
        self, prompts: TokenRows, responses: TokenRows, temperature: float
    ) -> list[list[float]]:
        """Log-prob of each response id, in nats."""
        return score_rows(self.model, prompts, responses, temperature, self.pad_id)

    @torch.inference_mode()
    def generate(self, rows: Sequence[Row], sampling: Sampling) -> list[Completion]:
        """One completion per row, in order."""
        batch = Batch(self, rows, sampling)
        while batch.step():
            pass
        texts = self.tokenizer.batch_decode(batch.responses, skip_special_tokens=True)
        return [
            Completion(ids, logprobs, reason, text)
            for ids, logprobs, reason, text in zip(
                batch.responses, batch.logprobs, batch.finish_reasons, texts, strict=True
            )
        ]


class Batch:
    """Rows on their way: each step gives one token to every row that is not done yet.

    Prompts are padded on the left, so that all rows grow at the same place. `_rows` says which of the
    caller's rows the batch still holds: a row that is done stays until enough others are, drawn for nothing.
    """

    def __init__(self, engine: TransformersEngine, rows: Sequence[Row], sampling: Sampling) -> None:
        self._engine, self._sampling = engine, sampling
        self._stops = Stops(engine.tokenizer, sampling.stop)
        self.responses: list[list[int]] = [[] for _ in rows]
        self.logprobs: list[list[float]] = [[] for _ in rows]
        self.finish_reasons = [FinishReason.LENGTH for _ in rows]
        self._done = [False for _ in rows]
        self._rows = list(range(len(rows)))
        self._place = 0  # tokens drawn so far
        self._device = engine.model.device
        streams = [
            uniforms(sampling.seed, r.prompt_ids, r.sample_index, sampling.max_new_tokens) for r in rows
        ]
        self._uniforms_BT = torch.stack(streams).to(self._device)
        self._start([row.prompt_ids for row in rows])

    def _start(self, prompts: TokenRows) -> None:
        """Reads each prompt once, whatever its samples: the cache, and the logits of the first token."""
        unique = list(dict.fromkeys(map(tuple, prompts)))
        ids_UP, mask_UP = pad_left(unique, self._engine.pad_id)
        new_UT = torch.ones(len(unique), self._sampling.max_new_tokens, dtype=torch.bool)
        self._mask_BW = torch.cat([mask_UP, new_UT], 1).to(self._device)
        self._width = ids_UP.shape[1]  # columns in the cache
        self._next_B1 = mask_UP.sum(-1, keepdim=True).to(self._device)  # position of the token to come
        self._cache = roomy_cache(self._engine.model.config)
        self._logits_BV = self._forward(ids_UP.to(self._device), position_ids(mask_UP).to(self._device))
        if len(unique) < len(prompts):
            place = {prompt: index for index, prompt in enumerate(unique)}
            index = torch.tensor([place[tuple(prompt)] for prompt in prompts], device=self._device)
            self._logits_BV = self._logits_BV[index]
            self._select(index)

    def _select(self, index: Tensor) -> None:
        """Makes these rows the batch's."""
        self._cache.batch_select_indices(index)
        self._mask_BW, self._next_B1 = self._mask_BW[index], self._next_B1[index]

    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Logits behind the last of `ids`, which enter the cache."""
        output = self._engine.model(
            input_ids=ids,
            attention_mask=self._mask_BW[:, : self._width],
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits_BV: Tensor = output.logits[:, -1]
        return logits_BV

    def step(self) -> bool:
        """Draws the next token of every row; False when there is nothing left to draw."""
        sampling = self._sampling
        u_B = self._uniforms_BT[:, self._place]
        drawn_B, logprobs_B = draw(self._logits_BV, u_B, sampling.temperature, sampling.top_k, sampling.top_p)
        self._place += 1
        self._append(drawn_B.tolist(), logprobs_B.tolist())
        if self._place == sampling.max_new_tokens or all(self._done):
            return False
        drawn_B = self._drop_done(drawn_B)
        self._width += 1
        self._logits_BV = self._forward(drawn_B[:, None], self._next_B1)
        self._next_B1 = self._next_B1 + 1
        return True

    def _append(self, drawn: list[int], logprobs: list[float]) -> None:
        """Notes the tokens of the rows under way and which of these rows are now done."""
        if not math.isfinite(sum(logprobs)):
            raise PreconditionError("non_finite", "the model's logits are not all numbers: are its weights?")
        for row, token, logprob in zip(self._rows, drawn, logprobs, strict=True):
            if self._done[row]:
                continue
            self.responses[row].append(token)
            self.logprobs[row].append(logprob)
            if token in self._engine.eos_ids:
                self._done[row], self.finish_reasons[row] = True, FinishReason.END_OF_TEXT
        if self._stops:
            self._find_stops()

    def _find_stops(self) -> None:
        """Ends the rows whose latest token completed a stop text."""
        open_rows = [row for row in self._rows if not self._done[row]]
        tails = [self.responses[row][-self._stops.reach :] for row in open_rows]
        for row, ended in zip(open_rows, self._stops.ended(tails), strict=True):
            if ended:
                self._done[row], self.finish_reasons[row] = True, FinishReason.STOP_TEXT

    def _drop_done(self, drawn_B: Tensor) -> Tensor:
        """Takes rows that are done out of the batch once they are many; the tokens of those that stay."""
        staying = [place for place, row in enumerate(self._rows) if not self._done[row]]
        if len(staying) > (1 - _DONE_SHARE) * len(self._rows):
            return drawn_B
        self._rows = [self._rows[place] for place in staying]
        index = torch.tensor(staying, device=self._device)
        self._select(index)
        self._uniforms_BT = self._uniforms_BT[index]
        return drawn_B[index]
