"""What a judge wrote, read: options in text, and log-probs of options in tokens."""

import math

import pytest

from services.judge.answers import logprobs_of, parse_option

LEVELS = [str(level) for level in range(1, 11)]


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("A", 0),
        (" (B)\n", 1),
        ("**B**.", 1),
        ("[[A]]", 0),
        ("The answer is (B).", 1),
        ("Answer: A", 0),
        ("B is rude, so my verdict is: **A**", 0),
        ("So the answer is: (B) because A is rude", 1),
        ("", None),
        ("a", None),
        ("A good question.", None),
        ("The answer is a matter of taste.", None),
        ("Both", None),
        ("Answer: A or answer: B", None),
        ("The answer is Apple", None),
        ("C", None),
    ],
)
def test_an_option_is_read_where_the_text_names_one(text: str, index: int | None):
    assert parse_option(text, ["A", "B"]) == index


@pytest.mark.parametrize("options", [["(A)", "(B)"], ["A.", "B."], ["[[A]]", "[[B]]"], ["**A**", "B)"]])
@pytest.mark.parametrize("text", ["B", "(B)", "B.", "[[B]]", "The answer is (B)"])
def test_marks_around_an_option_are_not_part_of_it_either(text: str, options: list[str]):
    assert parse_option(text, options) == 1
    with_logprobs = [place("(", N=1.0), place("B", A=0.1, B=0.6, _B=0.2), place(")", N=1.0)]
    assert read(with_logprobs, options, 1) == pytest.approx([0.1, 0.8])
    in_one_token = [{"token": "(B", "top_logprobs": [
        {"token": "(B", "logprob": math.log(0.8)}, {"token": "(A", "logprob": math.log(0.1)}
    ]}]  # fmt: skip
    assert read(in_one_token, options, 1) == pytest.approx([0.1, 0.8])


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("7", 7),
        ("10", 10),
        ("7/10", 7),
        ("10/10", 10),
        ("Score: 9", 9),
        ("Rating: [[10]]", 10),
        ("The score is 8/10.", 8),
        ("0", None),
        ("11", None),
        ("7.5", None),
        ("Score: 7.5", None),
        ("-3", None),
        ("seven", None),
        ("between 6 and 7", None),
    ],
)
def test_a_level_is_read_where_the_text_names_one(text: str, level: int | None):
    assert parse_option(text, LEVELS) == (None if level is None else level - 1)


def place(token: str, **alternatives: float) -> dict:
    """One token and its alternatives, by probability; "_" stands for a blank before it."""
    tops = [
        {"token": name.replace("_", " ").replace("N", ""), "logprob": math.log(probability)}
        for name, probability in alternatives.items()
    ]
    return {"token": token, "top_logprobs": tops}


def read(content: object, options: list[str], named: int | None = None) -> list[float] | None:
    found = logprobs_of(content, options, named)
    return None if found is None else [math.exp(each) for each in found]


def test_blanks_and_marks_around_an_option_are_not_part_of_it():
    content = [place("A", A=0.5, _A=0.2, B=0.1, C=0.1)]
    assert read(content, ["A", "B"]) == pytest.approx([0.7, 0.1])
    behind_a_bracket = [place("(", A=0.1, B=0.2), place("B", A=0.3, B=0.6), place(")", A=1.0, B=1e-9)]
    assert read(behind_a_bracket, ["A", "B"]) == pytest.approx([0.3, 0.6])


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        "A",
        [{"token": "A"}],
        [{"token": 3, "top_logprobs": []}],
        [place("A", A=0.9)],
        [place(" ", A=1)],
    ],
)
def test_without_alternatives_there_are_no_log_probs(content: object):
    assert read(content, ["A", "B"]) is None


def test_the_option_is_read_where_the_text_names_it():
    content = [
        place("The", The=0.9, A=0.05),
        place(" answer", _answer=0.9, B=0.1),
        place(" is", _is=0.9, A=0.1),
        place(" B", _B=0.6, _A=0.3),
        place(".", x=0.5, y=0.5),
    ]
    assert read(content, ["A", "B"], named=1) == pytest.approx([0.3, 0.6])
    assert read(content, ["A", "B"]) == pytest.approx([0.05, 0.0])
    assert read(content, ["C", "D"]) is None


@pytest.mark.parametrize("logprob", [float("nan"), 3.0, 10**400, -(10**400), "high", None, float("inf")])
def test_a_log_prob_that_is_none_is_left_out(logprob: object):
    tops = [{"token": token, "logprob": -1.0} for token in "AC"]
    content = [{"token": "A", "top_logprobs": [*tops, {"token": "B", "logprob": logprob}, "B"]}]
    assert read(content, ["A", "B"]) == pytest.approx([math.exp(-1.0), 0.0])


def test_an_option_that_is_no_alternative_has_no_probability():
    assert read([place("A", A=0.9, Yes=0.1)], ["A", "B"]) == pytest.approx([0.9, 0.0])


def test_a_ten_of_two_tokens_is_told_from_a_one():
    """P(10) = P("1") P("0" behind it); P(1) is the rest of P("1")."""
    split = [place("1", N1=0.6, N9=0.3, N8=0.1), place("0", N0=0.75, x=0.25)]
    levels = read(split, LEVELS)
    assert levels is not None
    assert (levels[0], levels[9], levels[8]) == pytest.approx((0.15, 0.45, 0.3))
    whole = [place("1", N1=0.6, N10=0.3, N8=0.1)]
    levels = read(whole, LEVELS)
    assert levels is not None
    assert (levels[0], levels[9]) == pytest.approx((0.6, 0.3))


def test_a_one_that_may_have_become_a_ten_is_not_guessed_at():
    assert read([place("9", N9=0.6, N1=0.3, N8=0.1)], LEVELS) is None
    rare = read([place("9", N9=0.9, N1=0.04)], LEVELS)
    assert rare is not None and rare[0] == pytest.approx(0.04)
