"""A causal language model as a judge: the probabilities of the options, and texts written token by token."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import GenerationConfig

from services.errors import PreconditionError
from services.judge.labels import option_logprobs
from services.judge.records import (
    Abstained,
    Answer,
    Identity,
    Question,
    Reason,
    Sampling,
    Usage,
    Written,
    abstained,
)
from services.models import LoadedCausal
from services.sequences import micro_batches, pad_left, position_ids, score_rows
from services.templates import TemplateError, render_prompt, render_text, template_sha256, tokenizer_sha256
from services.weights import Manifest

Spelling = tuple[int, ...]


class LocalModel:
    """One version of a judge model. Called from one thread at a time."""

    def __init__(self, loaded: LoadedCausal, manifest: Manifest, batch_rows: int, batch_tokens: int) -> None:
        self._loaded, self._rows, self._tokens = loaded, batch_rows, batch_tokens
        self._model = loaded.model.requires_grad_(False)
        # The model's own defaults (a temperature, a repetition penalty) would judge along.
        self._model.generation_config = GenerationConfig(
            eos_token_id=loaded.eos_ids, pad_token_id=loaded.pad_id
        )
        self.identity = Identity(
            manifest.model,
            version=manifest.version,
            tokenizer_sha256=tokenizer_sha256(loaded.tokenizer),
            template_sha256=template_sha256(loaded.tokenizer),
        )

    @torch.inference_mode()
    def choose(self, questions: Sequence[Question]) -> list[Answer]:
        """One log-prob per option and question, in nats. The same batch gives the same bits.

        Raises PreconditionError("options_alike") where the tokenizer writes two options the same way.
        """
        spelt = {options: self._spellings(options) for options in {q.options for q in questions}}
        reach = [max(map(len, (s for spellings in spelt[q.options] for s in spellings))) for q in questions]
        prompts = [self._prompt(q.text, room) for q, room in zip(questions, reach, strict=True)]
        fits = {index: ids for index, ids in enumerate(prompts) if not isinstance(ids, Abstained)}
        wanted = {index: sorted({s for o in spelt[questions[index].options] for s in o}) for index in fits}
        logprobs = self._spelling_logprobs(fits, wanted)

        def answer(index: int, ids: list[int] | Abstained) -> Answer:
            if isinstance(ids, Abstained):
                return Answer(ids)
            usage, own = Usage(1, 0, len(ids), 0), logprobs[index]
            if any(math.isnan(each) or each == math.inf for each in own.values()):
                return Answer(
                    abstained(Reason.NON_FINITE, "the judge's log-probs are no numbers"), usage=usage
                )
            options = spelt[questions[index].options]
            found = option_logprobs([{ids: own[ids] for ids in spellings} for spellings in options])
            return Answer(tuple(found), usage=usage)

        return [answer(index, ids) for index, ids in enumerate(prompts)]

    def _spellings(self, options: Sequence[str]) -> list[list[Spelling]]:
        """The token sequences of each option: as it stands, and behind a blank, as plain text goes on."""
        tokenizer = self._loaded.tokenizer

        def spell(text: str) -> Spelling:
            return tuple(tokenizer(text, add_special_tokens=False).input_ids)

        found = [sorted({spell(option), spell(f" {option}")} - {()}) for option in options]
        every = [ids for spellings in found for ids in spellings]
        if not all(found) or len(set(every)) < len(every):
            shown = ", ".join(map(repr, options))
            message = (
                f"the judge's tokenizer does not tell the options {shown} apart; word them in its own words"
            )
            raise PreconditionError("options_alike", message)
        return found

    def _prompt(self, text: str, new_tokens: int) -> list[int] | Abstained:
        """Ids of a question, in the model's chat template where it has one."""
        tokenizer = self._loaded.tokenizer
        try:
            if tokenizer.chat_template:
                ids = render_prompt(tokenizer, [{"role": "user", "content": text}])
            else:
                ids = render_text(tokenizer, text)
        except TemplateError as error:
            return abstained(Reason.TEMPLATE_FAILED, str(error))
        room = self._loaded.context_length
        if len(ids) + new_tokens > room:
            message = f"{len(ids)} tokens and {new_tokens} new ones do not fit into a context of {room}"
            return abstained(Reason.TOO_LONG, message)
        return ids

    def _spelling_logprobs(
        self, prompts: dict[int, list[int]], wanted: dict[int, list[Spelling]]
    ) -> dict[int, dict[Spelling, float]]:
        """Log-prob of every wanted spelling behind its prompt: one pass for first tokens, more for longer."""
        first = self._first_token_logprobs(list(prompts.values()))
        found: dict[int, dict[Spelling, float]] = {}
        longer: list[tuple[int, Spelling]] = []
        for index, logprobs_V in zip(prompts, first, strict=True):
            found[index] = {ids: float(logprobs_V[ids[0]]) for ids in wanted[index] if len(ids) == 1}
            longer += [(index, ids) for ids in wanted[index] if len(ids) > 1]
        if longer:
            rows = [prompts[index] for index, _ in longer]
            scored = score_rows(self._model, rows, [ids for _, ids in longer], 1.0, self._loaded.pad_id)
            for (index, ids), logprobs in zip(longer, scored, strict=True):
                found[index][ids] = math.fsum(logprobs)
        return found

    def _first_token_logprobs(self, rows: Sequence[list[int]]) -> list[Tensor]:
        """logprobs_V of the token behind each row."""
        found: list[Tensor] = [torch.empty(0)] * len(rows)
        for group in micro_batches([len(row) for row in rows], rows=self._rows, tokens=self._tokens):
            ids_BT, mask_BT = (
                each.to(self._model.device)
                for each in pad_left([rows[i] for i in group], self._loaded.pad_id)
            )
            logits_BV = self._model(
                input_ids=ids_BT,
                attention_mask=mask_BT.long(),
                position_ids=position_ids(mask_BT),
                use_cache=False,
                logits_to_keep=1,
            ).logits[:, -1]
            for index, logprobs_V in zip(group, logits_BV.double().log_softmax(-1).cpu(), strict=True):
                found[index] = logprobs_V
        return found

    def write(self, prompts: Sequence[str], sampling: Sampling) -> list[Written]:
        """One text per prompt. Above temperature 0 each draws by itself, from the seed and its own ids."""
        rendered = [self._prompt(prompt, sampling.max_new_tokens) for prompt in prompts]
        fits = {index: ids for index, ids in enumerate(rendered) if not isinstance(ids, Abstained)}
        rows = 1 if sampling.temperature > 0 else self._rows
        written = {index: Written(ids) for index, ids in enumerate(rendered) if isinstance(ids, Abstained)}
        places = list(fits)
        for group in micro_batches([len(fits[place]) for place in places], rows=rows, tokens=self._tokens):
            among = [places[index] for index in group]
            for place, new in zip(among, self._generate([fits[p] for p in among], sampling), strict=True):
                written[place] = self._written(len(fits[place]), new)
        return [written[index] for index in range(len(prompts))]

    @torch.inference_mode()
    def _generate(self, rows: Sequence[list[int]], sampling: Sampling) -> list[list[int]]:
        """New ids of each row, up to and with its first end-of-text id."""
        ids_BT, mask_BT = (each.to(self._model.device) for each in pad_left(rows, self._loaded.pad_id))
        drawn = sampling.temperature > 0
        given = (
            {"do_sample": True, "temperature": sampling.temperature, "top_k": 0}
            if drawn
            else {"do_sample": False}
        )
        with torch.random.fork_rng(devices=[self._model.device] if self._model.device.type == "cuda" else []):
            torch.manual_seed(_row_seed(sampling.seed, rows[0]))
            out_BT = self._model.generate(
                input_ids=ids_BT,
                attention_mask=mask_BT.long(),
                max_new_tokens=sampling.max_new_tokens,
                **given,
            )
        return [self._until_end(row) for row in out_BT[:, ids_BT.shape[1] :].tolist()]

    def _until_end(self, ids: list[int]) -> list[int]:
        ends = [place for place, token in enumerate(ids) if token in self._loaded.eos_ids]
        return ids[: ends[0] + 1] if ends else ids

    def _written(self, read: int, new: list[int]) -> Written:
        usage = Usage(1, 0, read, len(new))
        text = self._loaded.tokenizer.decode(new, skip_special_tokens=True).strip()
        if not text:
            return Written(abstained(Reason.EMPTY_ANSWER, "the judge's answer is empty"), usage=usage)
        return Written(text, truncated=new[-1] not in self._loaded.eos_ids, usage=usage)


def _row_seed(seed: int, ids: Sequence[int]) -> int:
    """The seed of one prompt's draws: no neighbour changes them."""
    return int.from_bytes(hashlib.sha256(repr((seed, list(ids))).encode()).digest()[:8], "big") >> 1
