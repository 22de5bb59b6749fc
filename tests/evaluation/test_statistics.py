"""Intervals and tests against values by hand: with two degrees of freedom Student's t has a closed form."""

import numpy as np
import pytest

from mpafer_jax.evaluation.statistics import Estimate, Ranking, holm, percent


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


def test_holm_by_hand():
    # Ascending .005 x 4, .01 x 3, .03 x 2, .04 x 1; the last is no less than the one before it.
    assert holm([0.01, None, 0.04, 0.03, 0.005]) == pytest.approx([0.03, None, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([None]) == [None]


def test_ranks_of_the_same_order_everywhere_by_hand():
    """Three methods in the same order on four datasets: chi-square 12 * 4 / (3 * 4) * (1 + 4 + 9 - 12) = 8, of which
    p is exp(-8 / 2) with two degrees of freedom."""
    ranking = Ranking.of(np.array([[0.3, 0.9, 0.5]]) + np.arange(4)[:, None])
    assert ranking.ranks == (3.0, 1.0, 2.0)
    assert (ranking.statistic, ranking.p_value) == (pytest.approx(8.0), pytest.approx(np.exp(-4)))
    assert ranking.critical_difference == pytest.approx(2.343 * np.sqrt(3 * 4 / (6 * 4)), abs=1e-3)  # 1.657
    assert ranking.groups() == [[1, 2], [2, 0]]


def test_equal_scores_share_their_ranks():
    """Ranks 1.5, 1.5, 3 and 1, 2.5, 2.5: sums 2.5, 4, 5.5. Chi-square is 12 / (2 * 3 * 4) times the sum of their
    squares, less 3 * 2 * 4, over 1 - (6 + 6) / (2 * 24) for the two ties of two."""
    ranking = Ranking.of([[0.5, 0.5, 0.1], [0.9, 0.2, 0.2]])
    assert ranking.ranks == (1.25, 2.0, 2.75)
    assert ranking.statistic == pytest.approx(((2.5**2 + 4**2 + 5.5**2) / 2 - 24) / (1 - 12 / 48))
    assert ranking.groups() == [[0, 1, 2]]
    nothing = Ranking.of(np.ones((2, 3)))
    assert (nothing.ranks, nothing.statistic, nothing.p_value) == ((2.0, 2.0, 2.0), 0.0, 1.0)


def test_means_of_the_same_numbers_in_another_order_share_their_ranks():
    one, two = (np.mean(np.array(correct) / 1400) for correct in ([1031, 1086, 1042], [1042, 1086, 1031]))
    assert one != two  # by rounding
    assert Ranking.of([[one, two, 0.5], [one, two, 0.5]]).ranks == (1.5, 1.5, 3.0)


@pytest.mark.parametrize(
    ("datasets", "methods", "critical"),
    [(14, 4, 1.25), (10, 5, 1.929)],  # Demsar 2006, section 3.2.2; 2.728 sqrt(5 * 6 / 60) with his table's quantile
)
def test_critical_differences_of_the_literature(datasets, methods, critical):
    scores = np.random.default_rng(0).random((datasets, methods))
    assert Ranking.of(scores).critical_difference == pytest.approx(critical, abs=5e-3)


def test_too_little_to_rank():
    for shape in ((1, 3), (2, 2)):
        with pytest.raises(ValueError, match=f"{shape[0]} datasets and {shape[1]} methods; expected two and three"):
            Ranking.of(np.zeros(shape))
