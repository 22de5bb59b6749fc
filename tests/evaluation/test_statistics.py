"""Intervals and tests against values by hand: with two degrees of freedom Student's t has a closed form."""

import numpy as np
import pytest

from mpafer_jax.evaluation.statistics import Estimate, percent


def test_three_values_by_hand():
    estimate = Estimate.of([0.7, 0.8, 0.9])
    assert (estimate.mean, estimate.deviation, estimate.count) == (pytest.approx(0.8), pytest.approx(0.1), 3)
    # P(|T| < t) = t / sqrt(2 + t^2) is 0.95 at t = 0.95 sqrt(2 / (1 - 0.95^2)) = 4.3027.
    quantile = 0.95 * np.sqrt(2 / (1 - 0.95**2))
    margin = quantile * 0.1 / np.sqrt(3)
    assert estimate.interval == pytest.approx((0.8 - margin, 0.8 + margin))


def test_p_value_by_hand():
    estimate = Estimate.of([1.0, 2.0, 3.0])  # t = 2 / (1 / sqrt(3))
    t = 2 * np.sqrt(3)
    assert estimate.p_value == pytest.approx(1 - t / np.sqrt(2 + t**2))
    assert Estimate.of([-1.0, -2.0, -3.0]).p_value == pytest.approx(estimate.p_value)
    assert Estimate.of([-1.0, 0.0, 1.0]).p_value == pytest.approx(1.0)


@pytest.mark.parametrize("values", [[0.5], [0.1 + 0.2, 0.3]])
def test_of_one_value_or_equal_ones_nothing_is_said(values):
    estimate = Estimate.of(values)
    assert (estimate.interval, estimate.p_value) == (None, None)
    assert percent(Estimate(-1e-9, 0.0, 2), "+") == "+0.00 ± 0.00"  # a difference of nothing has no sign


def test_the_interval_holds_the_mean_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(3.0, 2.0, (500, 4))
    intervals = [Estimate.of(row).interval for row in draws]
    share = np.mean([low < 3.0 < high for low, high in intervals])
    assert abs(share - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 500)
