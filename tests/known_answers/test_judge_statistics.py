"""Published answers E8 and E9: Cohen's kappa, calibration error and Brier score."""

import pytest

from orchestrator.judge_statistics import agreement_of, brier, calibration_error, correlation, table_of

EXACT = 1e-12


@pytest.mark.known_answer("E8")
def test_kappa_is_the_agreement_that_chance_does_not_explain():
    found = agreement_of([[40, 10], [5, 45]])
    assert (found.agreement, found.expected) == (
        pytest.approx(0.85, rel=EXACT),
        pytest.approx(0.5, rel=EXACT),
    )
    assert found.kappa.mean == pytest.approx(0.7, rel=EXACT)
    # sqrt(0.85 * 0.15 / 100) / 0.5 = 0.0714143
    assert found.kappa.low == pytest.approx(0.7 - 1.959963984540054 * 0.07141428428542851, rel=1e-9)
    assert found.kappa.n == 100


def test_raters_that_only_say_one_thing_have_no_kappa():
    assert agreement_of([[7, 0], [0, 0]]).kappa.mean is None
    assert agreement_of([[0, 0], [0, 0]]).agreement is None


def test_a_table_counts_both():
    assert table_of([True, True, False, False], [True, False, False, False]) == [[1, 1], [0, 2]]


@pytest.mark.known_answer("E9")
def test_calibration_error_and_brier():
    confidence, correct = [0.95, 0.9, 0.8, 0.7, 0.65, 0.55], [True, True, True, False, True, False]
    assert calibration_error(confidence, correct, [0.5, 0.75, 1.0]) == pytest.approx(
        0.20833333333333334, rel=EXACT
    )
    assert brier(confidence, correct) == pytest.approx(0.16124999999999998, rel=EXACT)


def test_confidence_outside_the_bins_is_refused():
    with pytest.raises(ValueError, match="within 0.5 to 1"):
        calibration_error([0.3], [True], [0.5, 1.0])


def test_correlation_needs_variation():
    assert correlation([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]) == pytest.approx(1.0)
    assert correlation([1.0, 1.0], [2.0, 4.0]) is None and correlation([1.0], [2.0]) is None
