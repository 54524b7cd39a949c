"""One call to the judge, from items to outcomes: who judges, what is asked, what came back.

asking = Asking(constitution, backend, until)       # one of each, whatever is loaded meanwhile
outcomes, timing = await asking.compare(pairs, Selection(seed=7), Rules(), Sampling())
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.judge.constitution import Constitution, Principle
from services.judge.principles import Selection, chosen, drawn, eligible
from services.judge.records import Abstained, Answer, Backend, Question, Sampling, Written
from services.judge.verdicts import (
    Exchange,
    Order,
    Outcome,
    Pair,
    Reading,
    Rules,
    empty_input,
    pair_value,
    read_pair,
    read_score,
    score_value,
)
from services.judge.wording import fill
from services.work import Timing

BOTH_ORDERS = (Order.AS_GIVEN, Order.SWAPPED)
NO_TIME = Timing(0.0, 0.0)


@dataclass(frozen=True)
class Revisable:
    """A response to write anew: by `principle` and after `critique`, where these are not ""."""

    exchange: Exchange
    critique: str = ""
    principle: str = ""


@dataclass(frozen=True)
class Composed:
    """A critique or a revision, and the principle it was written by."""

    exchange: Exchange
    principle: str
    written: Written


@dataclass(frozen=True)
class _Asked:
    """One question: of which item, by which principle, in which order, and what its template quotes."""

    place: int
    principle: Principle
    order: Order
    values: dict[str, str]


class Asking:
    """What one call goes by: it stays the same until the call is answered."""

    def __init__(self, constitution: Constitution, backend: Backend, until: float) -> None:
        self.constitution, self.backend, self._until = constitution, backend, until
        self._wording = constitution.wording

    async def compare(
        self, pairs: Sequence[Pair], selection: Selection, rules: Rules, sampling: Sampling
    ) -> tuple[list[Outcome], Timing]:
        """A verdict per pair, in order."""
        asked = self._pair_questions(pairs, selection)
        reasons, before = await self._reasons(asked, rules, sampling)
        template = self._wording.compare_reasoned if rules.chain_of_thought else self._wording.compare
        answers, timing = await self._answers(asked, reasons, template, self._wording.options)

        def reading(one: _Asked, answer: Answer, reason: Written) -> Reading:
            return _reading(one, read_pair(one.order, answer, rules), answer, reason)

        readings = list(map(reading, asked, answers, reasons))
        outcomes = _outcomes(pairs, asked, readings, lambda own: pair_value(own, rules))
        return outcomes, _sum(before, timing)

    async def score(
        self, exchanges: Sequence[Exchange], selection: Selection, min_option_mass: float
    ) -> tuple[list[Outcome], Timing]:
        """A score per response, in order."""
        pool = eligible(self.constitution, selection, "score")
        asked = [
            _Asked(place, principle, Order.NONE, self._quoted(exchange, principle.text("score")))
            for place, exchange in enumerate(exchanges)
            if exchange.fault() is None
            for principle in chosen(pool, selection, "score", exchange.hashes)
        ]
        unreasoned = [Written("")] * len(asked)
        answers, timing = await self._answers(asked, unreasoned, self._wording.score, self._wording.levels)
        readings = [
            _reading(one, read_score(answer, min_option_mass), answer, Written(""))
            for one, answer in zip(asked, answers, strict=True)
        ]
        return _outcomes(exchanges, asked, readings, score_value), timing

    async def critique(
        self, exchanges: Sequence[Exchange], selection: Selection, sampling: Sampling
    ) -> tuple[list[Composed], Timing]:
        """A critique per response, in order."""
        pool = eligible(self.constitution, selection, "critique")

        def prompt(exchange: Exchange, principle: Principle) -> str:
            return fill(self._wording.critique, **self._quoted(exchange, principle.critique))

        by = [drawn(pool, selection.seed, "critique", exchange.hashes) for exchange in exchanges]
        faults = [exchange.text_fault() for exchange in exchanges]
        return await self._compose(exchanges, by, faults, list(map(prompt, exchanges, by)), sampling)

    async def revise(
        self, items: Sequence[Revisable], selection: Selection, sampling: Sampling
    ) -> tuple[list[Composed], Timing]:
        """A revision per response, in order."""
        exchanges = [item.exchange for item in items]
        by = self._revising(items, selection)

        def prompt(item: Revisable, principle: Principle) -> str:
            values = self._quoted(item.exchange, principle.revision)
            if item.critique:
                return fill(self._wording.revise, **values, critique=item.critique)
            return fill(self._wording.revise_directly, **values)

        faults = [
            item.exchange.text_fault()
            or (empty_input("-", critique=item.critique) if item.critique else None)
            for item in items
        ]
        return await self._compose(exchanges, by, faults, list(map(prompt, items, by)), sampling)

    def _revising(self, items: Sequence[Revisable], selection: Selection) -> list[Principle]:
        """The principle of each item: the one it names, which need not be in the selection, or one drawn."""
        named = {item.principle for item in items} - {""}
        own = {
            name: eligible(self.constitution, Selection(names=(name,)), "revision")[0]
            for name in sorted(named)
        }
        unnamed = any(not item.principle for item in items)
        pool = eligible(self.constitution, selection, "revision") if unnamed else []
        return [
            own[item.principle]
            if item.principle
            else drawn(pool, selection.seed, "revision", item.exchange.hashes)
            for item in items
        ]

    def _pair_questions(self, pairs: Sequence[Pair], selection: Selection) -> list[_Asked]:
        """Both orders of every principle of every pair that can be judged."""
        pool = eligible(self.constitution, selection, "compare")
        asked = []
        for place, pair in enumerate(pairs):
            if pair.fault() is not None:
                continue
            for principle in chosen(pool, selection, "compare", pair.hashes):
                for order in BOTH_ORDERS:
                    slots = (pair.second, pair.first) if order is Order.SWAPPED else (pair.first, pair.second)
                    values = {
                        "conversation": self._wording.conversation(pair.prompt),
                        "principle": principle.compare,
                        "first": slots[0],
                        "second": slots[1],
                    }
                    asked.append(_Asked(place, principle, order, values))
        return asked

    def _quoted(self, exchange: Exchange, principle: str) -> dict[str, str]:
        conversation = self._wording.conversation(exchange.prompt)
        return {"conversation": conversation, "principle": principle, "response": exchange.response}

    async def _reasons(
        self, asked: Sequence[_Asked], rules: Rules, sampling: Sampling
    ) -> tuple[list[Written], Timing]:
        if not (rules.chain_of_thought and asked):
            return [Written("")] * len(asked), NO_TIME
        prompts = [fill(self._wording.reason, **one.values) for one in asked]
        return await self.backend.write(prompts, sampling, self._until)

    async def _answers(
        self, asked: Sequence[_Asked], reasons: Sequence[Written], template: str, options: Sequence[str]
    ) -> tuple[list[Answer], Timing]:
        """An answer per question; where the reasoning failed, that is the answer and nothing is asked."""
        questions = {
            place: Question(fill(template, **one.values, reasoning=reason.text), tuple(options))
            for place, (one, reason) in enumerate(zip(asked, reasons, strict=True))
            if isinstance(reason.text, str)
        }
        told: list[Answer] = []
        timing = NO_TIME
        if questions:
            told, timing = await self.backend.choose(list(questions.values()), self._until)
        answers = dict(zip(questions, told, strict=True))
        failed = {
            place: reason.text for place, reason in enumerate(reasons) if isinstance(reason.text, Abstained)
        }
        return [
            answers[place] if place in answers else Answer(failed[place]) for place in range(len(asked))
        ], timing

    async def _compose(
        self,
        exchanges: Sequence[Exchange],
        by: Sequence[Principle],
        faults: Sequence[Abstained | None],
        prompts: Sequence[str],
        sampling: Sampling,
    ) -> tuple[list[Composed], Timing]:
        sound = [place for place, fault in enumerate(faults) if fault is None]
        texts: dict[int, Written] = {
            place: Written(fault) for place, fault in enumerate(faults) if fault is not None
        }
        timing = NO_TIME
        if sound:
            written, timing = await self.backend.write(
                [prompts[place] for place in sound], sampling, self._until
            )
            texts |= zip(sound, written, strict=True)
        composed = [
            Composed(exchange, by[place].name, texts[place]) for place, exchange in enumerate(exchanges)
        ]
        return composed, timing


def _reading(asked: _Asked, value: float | Abstained, answer: Answer, reason: Written) -> Reading:
    reasoning = reason.text if isinstance(reason.text, str) else ""
    usage = reason.usage + answer.usage
    return Reading(asked.principle.name, asked.principle.weight, asked.order, value, answer, reasoning, usage)


def _outcomes(
    items: Sequence[Pair | Exchange],
    asked: Sequence[_Asked],
    readings: Sequence[Reading],
    value: Callable[[Sequence[Reading]], float | Abstained],
) -> list[Outcome]:
    """One per item: its fault, or what its readings come to."""
    own: list[list[Reading]] = [[] for _ in items]
    for one, reading in zip(asked, readings, strict=True):
        own[one.place].append(reading)
    return [
        Outcome(item.item_id, item.fault() or value(own[place]), tuple(own[place]), item.hashes)
        for place, item in enumerate(items)
    ]


def _sum(one: Timing, other: Timing) -> Timing:
    return Timing(one.queue_seconds + other.queue_seconds, one.compute_seconds + other.compute_seconds)
