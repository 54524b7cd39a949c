"""What a tiny judge learns from: comparisons, critiques and revisions by the principles of constitution.yaml.

    compare    user "MESSAGE <reply> ONE </s> MESSAGE <reply> OTHER </s> which reply is more honest ?"
               assistant "second", and on about the same pair: the next principle's question, its answer
    critique   user "MESSAGE <reply> REPLY </s> does the reply harm the customer ?"
               assistant "yes , it blames the customer ."
    revise     user "MESSAGE <reply> REPLY </s> CRITIQUE now write a reply that does no harm ."
               assistant "we are sorry . we will refund your lamp ."        the same reply without the blame

The questions are the judge service's own, filled from the same templates. Each principle is answered by its
own part of the gold score alone; where that part is equal, by chance: the judge learns to say one half.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import chain, cycle
from pathlib import Path
from random import Random
from typing import Any

import yaml

from worlds.helpdesk import words
from worlds.helpdesk.agents import draw_harm
from worlds.helpdesk.customers import Case, draw_message, reaction
from worlds.helpdesk.gold import aspects, score

CONSTITUTION = Path(__file__).with_name("constitution.yaml")
TEXTS = ("compare", "critique", "revision")

EDITED = 0.5  # of the pairs differ in one part of the reply only
TIES_ASKED = 0.25  # of the questions about parts that are equal; the answers are noise


@dataclass(frozen=True)
class Parts:
    """A reply, sentence by sentence; "" is one that is not said."""

    sorry: str
    stall: str
    acting: str
    harm: str
    closing: str

    @property
    def text(self) -> str:
        """The reply as it is said."""
        return words.join(*(getattr(self, kind) for kind in KINDS))


@cache
def constitution() -> dict[str, Any]:
    """The file's content."""
    content: dict[str, Any] = yaml.safe_load(CONSTITUTION.read_text(encoding="utf-8"))
    return content


def principles(text: str) -> dict[str, dict[str, Any]]:
    """The principles that have such a text ("compare", "critique", "revision"), by name."""
    return {each["name"]: each for each in constitution()["principles"] if text in each}


def judge_words() -> list[str]:
    """All words of questions, answers and critiques, sorted."""
    asked = [text for each in constitution()["principles"] for key, text in each.items() if key in TEXTS]
    answered = [*constitution()["wording"]["options"], *FAULTS.values(), YES, NO, NO_SORRY, NO_CLOSING]
    return sorted({word for text in [*asked, *answered] for word in text.split()})


# --- how a pair is judged ---


def preferred(principle: str, message: str, first: str, second: str) -> int:
    """1 where the first reply is better by a principle's part of gold, -1 where the second is, else 0."""
    one, other = worth(principle, message, first), worth(principle, message, second)
    return (one > other) - (one < other)


def worth(principle: str, message: str, reply: str) -> float:
    """A principle's part of gold: all of it for "overall"."""
    return score(message, reply) if principle == "overall" else aspects(message, reply)[principle]


def pair_row(cases: list[Case], random: Random) -> dict:
    """One pair and several principles' questions about it, in a random order."""
    message, first, second = draw_pair(cases, random)
    wording, asked = constitution()["wording"], list(principles("compare").values())
    random.shuffle(asked)
    messages: list[dict[str, str]] = []
    for principle in asked:
        side = preferred(principle["name"], message, first, second)
        if side == 0 and random.random() >= TIES_ASKED:
            continue
        question = principle["compare"]
        if not messages:
            values = {"conversation": message, "first": first, "second": second, "principle": question}
            question = wording["compare"].format(**values)
        side = side or random.choice((1, -1))
        messages += [user(question), assistant(wording["options"][0 if side > 0 else 1])]
    return {"messages": messages} if messages else pair_row(cases, random)


def draw_pair(cases: list[Case], random: Random) -> tuple[str, str, str]:
    """A message and two different replies to it."""
    case = random.choice(cases)
    message = draw_message(case, random)
    one = draw_parts(case, message, random.random(), random)
    while True:
        other = draw_parts(case, message, random.random(), random)
        if random.random() < EDITED:
            part = random.choice(KINDS)
            other = replace(one, **{part: getattr(other, part)})
        if other.text and one.text and other != one:
            return (
                (message, one.text, other.text) if random.random() < 0.5 else (message, other.text, one.text)
            )


def draw_parts(case: Case, message: str, care: float, random: Random) -> Parts:
    """A reply of an agent who takes care: 0 errs like those of the demonstrations and more, 1 hardly ever."""

    def errs(often: float) -> bool:
        return random.random() < often * (1.05 - care)

    item = random.choice(words.ITEMS) if errs(0.5) else case.item
    action = random.choice(words.ACTIONS) if errs(0.9) else case.action
    phrase = words.ACTING if errs(0.2) else words.ACTING_ITEM
    return Parts(
        sorry="" if errs(0.5) else words.SORRY,
        stall=random.choice(words.STALLS) if errs(0.4) else "",
        acting=words.NOTED if errs(0.15) else phrase.format(action=action, item=item),
        harm=draw_harm(message, random) if errs(0.5) else "",
        closing="" if errs(0.6) else words.CLOSING,
    )


# --- how a reply is criticised and written anew ---

YES, NO = "yes .", "no ."
NO_SORRY, NO_CLOSING = "it does not say sorry .", "it does not wish a good day ."
FAULTS = {  # by what gold counts
    "promises": "no , it says what nobody can keep .",
    "blames": "yes , it blames the customer .",
    "leaks": "yes , it reads the card out .",
    "stalls": "yes , it plays for time .",
}
KINDS = tuple(field.name for field in fields(Parts))


def critique(principle: str, case: Case, message: str, reply: str) -> str:
    """What is wrong with a reply by one principle, or that nothing is. Of help the customer is the judge."""
    found = aspects(message, reply)

    def said(*names: str) -> str:
        return words.join(*(FAULTS[name] for name in names if found[name]))

    if principle == "helpfulness":
        unharmed = words.join(*(each for each in sentences(reply) if kind_of(each) != "harm"))
        sorry, closing = "" if found["apology"] else NO_SORRY, "" if found["closing"] else NO_CLOSING
        return words.join(reaction(case, message, unharmed), sorry, closing)
    if principle == "honesty":
        return said("promises") or YES
    if principle == "harmlessness":
        return said("blames", "leaks") or NO
    return said("stalls") or NO


def revision(principle: str, case: Case, message: str, reply: str) -> str:
    """The reply with that put right which the principle is about; the rest stays as it was."""
    said = sentences(reply)
    found = {kind: [each for each in said if kind_of(each) == kind] for kind in KINDS}
    if principle == "helpfulness":
        found["acting"] = [words.ACTING_ITEM.format(action=case.action, item=case.item)]
        found["sorry"], found["closing"] = [words.SORRY], [words.CLOSING]
    if principle in ("honesty", "harmlessness"):
        promised = [each for each in found["harm"] if set(words.PROMISE_WORDS) & set(each.split())]
        blaming = [each for each in found["harm"] if each not in promised]
        found["harm"] = blaming if principle == "honesty" else promised
    if principle == "brevity":
        found["stall"] = []
    return words.join(*chain.from_iterable(found.values())) or words.NOTED


def sentences(reply: str) -> list[str]:
    """Its sentences, each with its full stop."""
    return [f"{each.strip()} ." for each in reply.split(" .") if each.strip()]


def kind_of(sentence: str) -> str:
    """Which part of a reply a sentence is."""
    said = set(sentence.split())
    if "sorry" in said:
        return "sorry"
    if said & set(words.STALL_WORDS):
        return "stall"
    if said & {*words.PROMISE_WORDS, *words.BLAME_WORDS, "file"}:
        return "harm"
    return "closing" if sentence == words.CLOSING else "acting"


def critique_row(principle: str, cases: list[Case], random: Random) -> dict:
    """A reply, the question what is wrong with it, and the answer."""
    case, message, reply = draw_exchange(cases, random)
    text = constitution()["wording"]["critique"].format(
        conversation=message, response=reply, principle=principles("critique")[principle]["critique"]
    )
    return {"messages": [user(text), assistant(critique(principle, case, message, reply))]}


def revision_row(principle: str, cases: list[Case], random: Random) -> dict:
    """A reply, a critique of it, and the reply written anew."""
    case, message, reply = draw_exchange(cases, random)
    text = constitution()["wording"]["revise"].format(
        conversation=message,
        response=reply,
        critique=critique(principle, case, message, reply),
        principle=principles("revision")[principle]["revision"],
    )
    return {"messages": [user(text), assistant(revision(principle, case, message, reply))]}


def draw_exchange(cases: list[Case], random: Random) -> tuple[Case, str, str]:
    """A case, its message and a reply that often errs: to find nothing is learned soon."""
    case = random.choice(cases)
    message = draw_message(case, random)
    return case, message, draw_parts(case, message, random.random() / 2, random).text


def judge_rows(cases: list[Case], pairs: int, seed: int) -> Iterable[dict]:
    """`pairs` rows of comparisons, and a quarter as many of critiques and of revisions, in a random order."""
    random = Random(f"judge {seed}")
    by = principles("critique")
    weights = [each["weight"] for each in by.values()]  # as often as the principle is drawn
    makers = [*["pair"] * pairs, *["critique"] * (pairs // 4), *["revision"] * (pairs // 4)]
    random.shuffle(makers)
    for kind in makers:
        if kind == "pair":
            yield pair_row(cases, random)
        else:
            make = critique_row if kind == "critique" else revision_row
            yield make(random.choices(list(by), weights)[0], cases, random)


def known_rows(cases: list[Case], seed: int) -> Iterable[dict]:
    """A pair for each case and a principle in turn, with the answer that gold gives; ties are drawn again."""
    random = Random(f"judge-heldout {seed}")
    for number, (case, name) in enumerate(zip(cases, cycle(principles("compare")), strict=False)):
        while True:
            message, first, second = draw_pair([case], random)
            side = preferred(name, message, first, second)
            if side:
                break
        better, worse = (first, second) if side > 0 else (second, first)
        yield {
            "prompt_id": f"judge-{number:05d}",
            "messages": [user(message)],
            "chosen": better,
            "rejected": worse,
            "principle": name,
        }


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}
