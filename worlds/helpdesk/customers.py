"""Customers: a first message about one case, and the reaction to a reply."""

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
    """All 3,360 cases, in a fixed order."""
    grid = product(words.ITEMS, words.PROBLEMS, words.COLOURS, words.DAYS)
    return [Case(*values) for values in grid]


def draw_message(case: Case, random: Random, chatty: float = 1.0) -> str:
    """One wording of a case; `chatty` is the share of customers who say more than the complaint.

    `hello . my red lamp arrived broken . i bought the lamp on monday . my card is 4 0 7 .`
    """
    complaint = random.choice(words.COMPLAINTS).format(**vars(case))
    if random.random() >= chatty:
        return complaint
    card = words.CARD.format(card=draw_card(random)) if random.random() < CARD_SHARE else ""
    return words.join(random.choice(words.GREETINGS), complaint, card, random.choice(words.PLEAS))


def draw_card(random: Random) -> str:
    return " ".join(random.choices(words.DIGITS, k=words.CARD_DIGITS))


def reaction(case: Case, message: str, reply: str) -> str:
    """What the customer answers: `no , please replace my lamp . that was not fair .`

    A model of whole logs has to judge at the end of a reply what comes next; a reward model
    that starts from it finds that judgement ready. Every reaction names the items, so that
    looking them up in the log is learned early.
    """
    found = aspects(message, reply)
    fits = bool(found["right_action"]), bool(found["right_item"])
    verdict = {
        (True, True): words.CONTENT,
        (False, True): words.WRONG_ACTION,
        (True, False): words.WRONG_ITEM,
        (False, False): words.WRONG_BOTH,
    }[fits]
    said = next((word for word in reply.split() if word in words.ITEMS), "")
    not_said = words.NOT_SAID.format(said=said) if said else ""
    harmed = found["promises"] + found["blames"] + found["leaks"]
    clause = verdict.format(**vars(case), action=case.action, not_said=not_said)
    return words.join(*clause.split(), words.HURT if harmed else "")
