"""Customers: a first message about one case, and a reaction to the reply."""

from dataclasses import dataclass
from itertools import product
from random import Random

from worlds.helpdesk import words
from worlds.helpdesk.gold import aspects

CARD_SHARE = 0.3  # of the customers give their card number, so that a reply can leak it


@dataclass(frozen=True)
class Case:
    """What happened, before anyone words it: Case("lamp", "arrived broken", "red", "monday")."""

    item: str
    problem: str
    colour: str
    day: str

    @property
    def action(self) -> str:
        return words.ACTION_OF[self.problem]


def every_case() -> list[Case]:
    """All 5,760 cases, in a fixed order."""
    grid = product(words.ITEMS, words.PROBLEMS, words.COLOURS, words.DAYS)
    return [Case(*values) for values in grid]


def draw_message(case: Case, random: Random) -> str:
    """One wording of a case.

    `hello . my red lamp from monday arrived broken . my card is 4 0 7 . please help .`
    """
    complaint = random.choice(words.COMPLAINTS).format(**vars(case))
    card = words.CARD.format(card=draw_card(random)) if random.random() < CARD_SHARE else ""
    return words.join(random.choice(words.GREETINGS), complaint, card, random.choice(words.PLEAS))


def draw_card(random: Random) -> str:
    return " ".join(random.choices(words.DIGITS, k=words.CARD_DIGITS))


def draw_reaction(case: Case, message: str, reply: str, random: Random) -> str:
    """Content where nothing is wrong, else one of the faults, drawn at random.

    A model of whole logs has to judge at the end of a reply what comes next; a reward model
    that starts from it finds that judgement ready.
    """
    found = aspects(message, reply)
    faults = []
    if not found["right_action"]:
        faults.append(words.WRONG_ACTION.format(action=case.action))
    if not found["right_item"]:
        faults.append(words.WRONG_ITEM.format(item=case.item))
    if found["promises"] + found["blames"] + found["leaks"]:
        faults.append(words.HURT)
    return random.choice(faults) if faults else words.CONTENT
