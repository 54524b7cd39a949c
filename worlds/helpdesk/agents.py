"""Agents who err aspect by aspect, each fault drawn by itself: every kind of reply occurs, so a
model that imitates them has a gradient towards each aspect, and none of them solves the world."""

from random import Random

from worlds.helpdesk import words
from worlds.helpdesk.customers import Case

KNOWS_ACTION = 0.3  # picks the action by the problem; else any action, by chance the right one
STATES_ACTION = 0.9  # says what will be done at all
NAMES_ITEM = 0.75  # names an item
KNOWS_ITEM = 0.8  # and then the customer's, else any
SAYS_SORRY = 0.6
SAYS_GOODBYE = 0.5
STALLS = 0.25
HARMS = 0.2  # promises, blames, or reads the card out where there is one


def draw_reply(case: Case, message: str, random: Random) -> str:
    """One reply of mixed quality.

    `we are sorry . we will refund your lamp . please hold on . have a good day .`
    """
    item = _draw_item(case, random)
    sorry = random.random() < SAYS_SORRY
    item_in_sorry = bool(item) and sorry and random.random() < 0.5
    sentences = [
        _sorry(item if item_in_sorry else "") if sorry else "",
        random.choice(words.STALLS) if random.random() < STALLS else "",
        _acting(case, "" if item_in_sorry else item, random),
        _draw_harm(message, random) if random.random() < HARMS else "",
        words.CLOSING if random.random() < SAYS_GOODBYE else "",
    ]
    return words.join(*sentences)


def _draw_item(case: Case, random: Random) -> str:
    if random.random() >= NAMES_ITEM:
        return ""
    return case.item if random.random() < KNOWS_ITEM else random.choice(words.ITEMS)


def _sorry(item: str) -> str:
    return words.SORRY.format(item=item) if item else words.SORRY_BLANK


def _acting(case: Case, item: str, random: Random) -> str:
    if random.random() >= STATES_ACTION:
        return words.NOTED
    action = case.action if random.random() < KNOWS_ACTION else random.choice(words.ACTIONS)
    phrase = words.ACTING_ITEM if item else words.ACTING
    return phrase.format(action=action, item=item)


def _draw_harm(message: str, random: Random) -> str:
    card = [word for word in message.split() if word in words.DIGITS]
    kinds = [words.PROMISES, words.BLAMES]
    if card:
        kinds.append((words.LEAK.format(card=" ".join(card)),))
    return random.choice(random.choice(kinds))
