"""A scalar model as a scorer: its own tokenizer and template, micro-batches by length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from services.models import LoadedScalar
from services.reward.scorers import (
    UNFITTED,
    Description,
    Exchange,
    Normalisation,
    NotScored,
    Outcome,
    finite_score,
)
from services.sequences import micro_batches, pad_right
from services.templates import (
    TemplateError,
    render_exchange,
    response_length,
    template_sha256,
    tokenizer_sha256,
)
from services.weights import MANIFEST, Manifest, WeightsError

BATCH_ROWS = 64


class LearnedScorer:
    """One version of a scalar model; a ServingModel holds the newest."""

    def __init__(
        self, name: str, loaded: LoadedScalar, manifest: Manifest, path: Path, batch_tokens: int
    ) -> None:
        fitted = fitted_normalisation(manifest, path)
        self._loaded, self._batch_tokens = loaded, batch_tokens
        self._normalisation = fitted or UNFITTED
        self.description = Description(
            name,
            version=manifest.version,
            tokenizer_sha256=tokenizer_sha256(loaded.tokenizer),
            template_sha256=template_sha256(loaded.tokenizer),
            context_length=loaded.context_length,
            normalisation=fitted,
        )

    def score(self, exchanges: Sequence[Exchange]) -> list[Outcome]:
        """One outcome per exchange, in order; the same exchanges give the same bits.

        What is longer than the context keeps its END, where the response is, and is marked truncated.
        """
        rendered = [self._render(exchange) for exchange in exchanges]
        rows = {index: ids for index, ids in enumerate(rendered) if not isinstance(ids, NotScored)}
        read = {index: ids[-self._loaded.context_length :] for index, ids in rows.items()}
        raw = dict(zip(read, self._raw_scores(list(read.values())), strict=True))

        def outcome(index: int, ids: list[int] | NotScored) -> Outcome:
            if isinstance(ids, NotScored):
                return ids
            tokens = len(read[index])
            return finite_score(
                raw[index],
                self._normalisation,
                truncated=tokens < len(ids),
                tokens=tokens,
                response_tokens=self._response_tokens(exchanges[index]),
            )

        return [outcome(index, ids) for index, ids in enumerate(rendered)]

    def _render(self, exchange: Exchange) -> list[int] | NotScored:
        fault = exchange.fault()
        if fault is not None:
            return fault
        try:
            return render_exchange(self._loaded.tokenizer, exchange.prompt, exchange.response)
        except TemplateError as error:
            return NotScored("template_failed", str(error)[:300])

    def _response_tokens(self, exchange: Exchange) -> int:
        """The length that the normalisation has a term for; not counted where it has none."""
        controlled = self._normalisation.length_coefficient != 0
        return response_length(self._loaded.tokenizer, exchange.response) if controlled else 0

    @torch.inference_mode()
    def _raw_scores(self, rows: list[list[int]]) -> list[float]:
        scores = [math.nan] * len(rows)
        device = next(self._loaded.model.parameters()).device
        for group in micro_batches([len(row) for row in rows], rows=BATCH_ROWS, tokens=self._batch_tokens):
            ids_BT, mask_BT = pad_right([rows[index] for index in group], self._loaded.pad_id)
            scores_B = self._loaded.model(ids_BT.to(device), mask_BT.to(device))
            for index, score in zip(group, scores_B.tolist(), strict=True):
                scores[index] = score
        return scores


def fitted_normalisation(manifest: Manifest, path: Path) -> Normalisation | None:
    """manifest.extra["normalisation"], {"gain": 0.5, "bias": -1.0}; None where nothing was fitted.

    A model whose scores are length-controlled has "length_coefficient" there too.
    """
    given = manifest.extra.get("normalisation")
    if given is None:
        return None
    try:
        of_length = float(given.get("length_coefficient", 0.0))
        fitted = Normalisation(float(given["gain"]), float(given["bias"]), of_length)
    except (AttributeError, KeyError, TypeError, ValueError):
        fault = f"extra.normalisation must hold gain and bias, not {given!r}"
        raise WeightsError(path / MANIFEST, fault) from None
    if not (fitted.gain > 0 and all(map(math.isfinite, vars(fitted).values()))):
        # A gain of 0 or less would make every answer equally good, or the worst one the best.
        fault = f"extra.normalisation must be finite with a gain above 0, not {given!r}"
        raise WeightsError(path / MANIFEST, fault)
    return fitted
