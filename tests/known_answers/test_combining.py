"""Published answers F6 and F7: ensembles of reward models, and the log-sigmoid-centred reward."""

import pytest

from services.reward.combining import (
    disagreement,
    log_sigmoid,
    log_sigmoid_sum,
    mean,
    mean_minus_variance,
    minimum,
    variance,
)

MEMBERS = [[1.0, 2.0, 3.0], [2.0, 2.0, 2.0], [4.0, 1.0, -1.0]]  # one row an item
MEANS = [2.0, 2.0, 1.3333333333333333]


@pytest.mark.known_answer("F6")
@pytest.mark.parametrize(
    ("combine", "expected"),
    [
        (mean, MEANS),
        (minimum, [1.0, 2.0, -1.0]),
        (variance, [0.6666666666666666, 0.0, 4.222222222222222]),
        (lambda scores: mean_minus_variance(scores, 0.1), [1.9333333333333333, 2.0, 0.911111111111111]),
        (lambda scores: mean_minus_variance(scores, 0.5), [1.6666666666666667, 2.0, -0.7777777777777779]),
        (disagreement, [1.0, 0.0, 2.516611478423583]),
    ],
)
def test_an_ensemble_gives_the_published_scores(combine, expected):
    assert [combine(scores) for scores in MEMBERS] == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.known_answer("F6")
def test_the_mean_cannot_tell_two_items_that_caution_can():
    means, lowest = [mean(scores) for scores in MEMBERS], [minimum(scores) for scores in MEMBERS]
    cautious = [mean_minus_variance(scores, 0.1) for scores in MEMBERS]
    assert means[0] == means[1] == max(means)
    assert lowest.index(max(lowest)) == cautious.index(max(cautious)) == 1


@pytest.mark.known_answer("F7")
def test_the_log_sigmoid_centred_reward_gives_the_published_scores():
    found = [log_sigmoid(score, 1.0) for score in (3.0, 0.0, -2.0)]
    assert found == pytest.approx([-0.1269280110429725, -1.3132616875182228, -3.048587351573742], rel=1e-12)
    both = log_sigmoid_sum([3.0, -2.0], [1.0, 1.0])
    assert both == pytest.approx(-3.1755153626167147, rel=1e-12)


def test_a_log_sigmoid_far_out_is_finite():
    assert log_sigmoid(-1e4, 0.0) == -1e4
    assert log_sigmoid(1e4, 0.0) == pytest.approx(0.0, abs=1e-300)


def test_nothing_is_not_combined():
    for combine in (mean, minimum, variance):
        with pytest.raises(ValueError, match="nothing to combine"):
            combine([])
    with pytest.raises(ValueError, match="at least two members"):
        disagreement([1.0])
