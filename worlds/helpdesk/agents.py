"""Agents who err aspect by aspect, each fault drawn by itself: every kind of reply occurs, so a
model that imitates them has a gradient towards each aspect, and none of them solves the world."""

from dataclasses import dataclass
from random import Random

from worlds.helpdesk import words
from worlds.helpdesk.customers import Case

STATES_ACTION = 0.9  # says what will be done at all
NAMES_ITEM = 0.85  # names an item
SAYS_SORRY = 0.6
SAYS_GOODBYE = 0.5
STALLS = 0.25
HARMS = 0.2  # promises, blames, or reads the card out where there is one


@dataclass(frozen=True)
class Skill:
    """How often an agent knows the action by the problem and the item by the message; an agent
    who does not names any, by chance the right one."""

    knows_action: float
    knows_item: float
    chatty: float  # share of replies that hold more than the action


TRAINED = Skill(knows_action=0.3, knows_item=0.7, chatty=1.0)  # gives the demonstrations
# Those in the logs fit and misfit about evenly, in few words, so that the verdict is learned soon.
UNTRAINED = Skill(knows_action=0.4, knows_item=0.45, chatty=0.3)


def draw_reply(case: Case, message: str, skill: Skill, random: Random) -> str:
    """One reply of mixed quality.

    `we are sorry . we will refund your lamp . please hold on . have a good day .`
    """
    item = _draw_item(case, skill, random)
    if random.random() >= skill.chatty:
        return _acting(case, item, skill, random)
    sentences = [
        words.SORRY if random.random() < SAYS_SORRY else "",
        random.choice(words.STALLS) if random.random() < STALLS else "",
        _acting(case, item, skill, random),
        draw_harm(message, random) if random.random() < HARMS else "",
        words.CLOSING if random.random() < SAYS_GOODBYE else "",
    ]
    return words.join(*sentences)


def _draw_item(case: Case, skill: Skill, random: Random) -> str:
    if random.random() >= NAMES_ITEM:
        return ""
    return case.item if random.random() < skill.knows_item else random.choice(words.ITEMS)


def _acting(case: Case, item: str, skill: Skill, random: Random) -> str:
    if random.random() >= STATES_ACTION:
        return words.NOTED
    action = case.action if random.random() < skill.knows_action else random.choice(words.ACTIONS)
    phrase = words.ACTING_ITEM if item else words.ACTING
    return phrase.format(action=action, item=item)


def draw_harm(message: str, random: Random) -> str:
    """A sentence that promises, blames, or reads the card of the message out."""
    card = [word for word in message.split() if word in words.DIGITS]
    kinds: list[tuple[str, ...]] = [words.PROMISES, words.BLAMES]
    if card:
        kinds.append((words.LEAK.format(card=" ".join(card)),))
    return random.choice(random.choice(kinds))
