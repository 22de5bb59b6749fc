"""The temperature, by hand and beside SciPy's minimiser; ECE: tests/evaluation/report/test_numbers.py."""

import numpy as np
import pytest
from scipy import optimize

from mpafer_jax.evaluation.calibration import LARGEST, SMALLEST, fit_temperature


def drawn(scale=1.0, images=3000):
    """Logits, and labels drawn by the probabilities that they would be for a scale of 1."""
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 2, (images, 5))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return scale * logits, np.array([rng.choice(5, p=row) for row in probabilities])


def cross_entropy(logits, labels, temperature):
    scaled = logits / temperature
    return np.mean(np.logaddexp.reduce(scaled, axis=1) - scaled[np.arange(len(labels)), labels])


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_as_scipy_minimises(scale):
    logits, labels = drawn(scale)
    best = optimize.minimize_scalar(
        lambda t: cross_entropy(logits, labels, t), bounds=(0.1, 10), method="bounded", options={"xatol": 1e-10}
    )
    assert fit_temperature(logits, labels) == pytest.approx(best.x, rel=1e-6)
    assert best.x == pytest.approx(scale, rel=0.05)  # the labels are drawn so


def test_scaled_logits_give_the_factor_back():
    logits, labels = drawn()
    once = fit_temperature(logits, labels)
    for factor in (0.25, 7.0):
        assert fit_temperature(factor * logits, labels) == pytest.approx(factor * once, rel=1e-9)


def test_two_classes_by_hand():
    # Three of four are right, with logits 1 apart: at the minimum sigmoid(1 / T) = 3/4, so T = 1 / log 3.
    logits = np.array([[1.0, 0.0]] * 4)
    assert fit_temperature(logits, np.array([0, 0, 0, 1])) == pytest.approx(1 / np.log(3))


def test_the_limits():
    logits = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert fit_temperature(logits, np.array([0, 1])) == SMALLEST  # all right: the surer the better
    assert fit_temperature(logits, np.array([1, 0])) == LARGEST
    assert fit_temperature(np.zeros((2, 3)), np.array([0, 2])) == LARGEST  # no logits say anything
