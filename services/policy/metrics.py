"""What the policy service shows of its own on /metrics; its seconds are those of trueline_work_*."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Sequence

from prometheus_client import CollectorRegistry

from services.exported import exported
from services.policy.engine import Completion, FinishReason


class PolicyMetrics:
    """Completions, their lengths, and how well chunks were filled."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._tokens = exported("trueline_generated_tokens_total", registry)
        self._slots = exported("trueline_generation_slots_total", registry)
        self._prompt_tokens = exported("trueline_prompt_tokens_total", registry)
        self._rollouts = exported("trueline_rollouts_total", registry)
        self._lengths = exported("trueline_response_length_tokens", registry)
        for reason in FinishReason:  # exported as 0 before the first, so that a share can be taken
            self._rollouts.labels(reason.value)

    def observe(self, prompt_tokens: int, completions: Sequence[Completion]) -> None:
        """Counts a chunk."""
        lengths = [len(completion.response_ids) for completion in completions]
        self._tokens.inc(sum(lengths))
        self._slots.inc(len(lengths) * max(lengths, default=0))
        self._prompt_tokens.inc(prompt_tokens)
        for reason, count in Tally(completion.finish_reason for completion in completions).items():
            self._rollouts.labels(reason.value).inc(count)
        for length in lengths:
            self._lengths.observe(length)
