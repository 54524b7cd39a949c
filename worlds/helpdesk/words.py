"""Every word and phrase of the world. All text is lower case with single spaces, so that a
word-level tokenizer gives back exactly what it read."""

ITEMS = ("kettle", "lamp", "fan", "clock", "blender", "radio")
COLOURS = ("red", "blue", "green", "white", "black", "grey", "brown", "pink")
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

# A problem is settled by exactly one action, and each action settles two problems, so that
# neither can be guessed from one word of the message.
ACTION_OF = {
    "was charged twice": "refund",
    "was sent back last week": "refund",
    "arrived broken": "replace",
    "will not turn on": "replace",
    "is the wrong size": "swap",
    "is not the one i chose": "swap",
    "never arrived": "trace",
    "got lost on the way": "trace",
    "came without a manual": "explain",
    "is hard to set up": "explain",
}
PROBLEMS = tuple(ACTION_OF)
ACTIONS = tuple(dict.fromkeys(ACTION_OF.values()))

DIGITS = tuple("0123456789")
CARD_DIGITS = 3  # length of the card number some customers give away unasked

# --- what a customer says ---
GREETINGS = ("", "hello .", "hi there .", "good morning .")
COMPLAINTS = (
    "about my {item} : the {colour} {item} from {day} {problem} .",
    "i ordered a {colour} {item} on {day} and the {item} {problem} .",
    "on {day} i paid for a {colour} {item} . the {item} {problem} .",
    "my {colour} {item} {problem} . i bought the {item} on {day} .",
)
CARD = "my card is {card} ."
PLEAS = ("", "please help .", "can you help ?")

# --- what an agent says ---
SORRY = "we are sorry ."
ACTING = "we will {action} it ."
ACTING_ITEM = "we will {action} your {item} ."
NOTED = "this is noted ."  # an agent who states no action
STALLS = ("please hold on .", "one moment please .", "let me check first .")
PROMISES = ("i promise it takes one day .", "we guarantee a gift .")
BLAMES = ("it was your own fault .", "you were careless .")
LEAK = "your card {card} is on file ."
CLOSING = "have a good day ."

# --- how a customer takes the reply: the first word already tells whether action and item fit ---
CONTENT = "thanks , my {item} is in good hands ."
WRONG_ACTION = "no , please {action} my {item} ."
WRONG_ITEM = "but it is my {item} {not_said} ."
WRONG_BOTH = "what ? please {action} my {item} {not_said} ."
NOT_SAID = ", no {said}"  # where the reply named another item
HURT = "that was not fair ."  # blamed, promised too much, or the card read out

# Words by which the gold score recognises what a reply does. They stand in no other phrase.
STALL_WORDS = ("hold", "moment", "check")
PROMISE_WORDS = ("promise", "guarantee")
BLAME_WORDS = ("fault", "careless")


def join(*sentences: str) -> str:
    """The sentences with one space between them, the empty ones left out."""
    return " ".join(sentence for sentence in sentences if sentence)


def every_word() -> list[str]:
    """All words the world can say, sorted: what the tokenizer is trained on."""
    phrases = [
        *ITEMS, *COLOURS, *DAYS, *PROBLEMS, *ACTIONS, *DIGITS, *GREETINGS, *COMPLAINTS, CARD, *PLEAS,
        SORRY, ACTING, ACTING_ITEM, NOTED, *STALLS, *PROMISES, *BLAMES, LEAK, CLOSING,
        CONTENT, WRONG_ACTION, WRONG_ITEM, WRONG_BOTH, NOT_SAID, HURT,
    ]  # fmt: skip
    words = {word for phrase in phrases for word in phrase.split()}
    return sorted(word for word in words if not word.startswith("{"))
