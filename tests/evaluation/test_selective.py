"""Risk, coverage and thresholds, by hand."""

import numpy as np
import pytest

from mpafer_jax.evaluation.selective import answered, risk_coverage, threshold_for
from mpafer_jax.evaluation.statistics import wilson

CONFIDENCE = np.array([0.5, 0.9, 0.7, 0.95, 0.6], np.float32)
CORRECT = np.array([False, False, True, True, True])


def test_risk_of_five_images():
    # By falling confidence: right, wrong, right, right, wrong.
    risks = risk_coverage(CONFIDENCE, CORRECT)
    np.testing.assert_allclose(risks, [0, 1 / 2, 1 / 3, 1 / 4, 2 / 5])
    assert risks.mean() == pytest.approx((1 / 2 + 1 / 3 + 1 / 4 + 2 / 5) / 5)


def test_the_order_of_equally_confident_images_does_not_matter():
    confidence = np.array([0.8, 0.8, 0.8, 0.4])
    for correct in ([True, True, False, False], [False, True, True, False]):
        np.testing.assert_allclose(risk_coverage(confidence, np.array(correct)), [1 / 3, 1 / 3, 1 / 3, 1 / 2])


def test_a_threshold_answers_what_reaches_it():
    found = answered(CONFIDENCE.astype(np.float64).round(2), CORRECT, 0.7)
    assert (found.count, found.coverage, found.accuracy) == (3, 3 / 5, 2 / 3)
    low, high = wilson(2, 3)
    assert found.interval == (float(low), float(high))
    none = answered(CONFIDENCE, CORRECT, 0.99)
    assert (none.count, none.coverage, none.accuracy, none.interval) == (0, 0.0, None, None)


@pytest.mark.parametrize(
    ("accuracy", "threshold"),
    [
        (0.6, 0.0),  # three of all five
        (0.75, 0.51),  # without the one of 0.5: three of four
        (0.8, 0.91),  # two of three, and one of two, are too few
        (1.0, 0.91),
    ],
)
def test_the_lowest_threshold_that_reaches_an_accuracy(accuracy, threshold):
    assert threshold_for(accuracy, CONFIDENCE, CORRECT, at_least=1) == threshold


def test_an_accuracy_that_is_not_reached_with_enough_images():
    assert threshold_for(0.8, CONFIDENCE, CORRECT, at_least=2) is None
    assert threshold_for(0.5, CONFIDENCE, np.zeros(5, bool), at_least=1) is None
