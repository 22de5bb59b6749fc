"""Logistic regression: known optima, the choice of the penalty, determinism."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpafer_jax.evaluation.baselines import linear_probe
from mpafer_jax.evaluation.metrics import softmax
from tests.evaluation.baselines.validation import score, split


def solve(features, targets, l2):
    features, targets = jnp.asarray(features, jnp.float32), jnp.asarray(targets, jnp.float32)
    start = {"weights": jnp.zeros((features.shape[1], targets.shape[1])), "bias": jnp.zeros(targets.shape[1])}
    return jax.jit(linear_probe.minimize)(start, features, targets, jnp.float32(l2))


def test_an_optimum_by_hand():
    """Images at -1 and 1, weights (-w, w): the derivative -sigmoid(-2 w) + l2 w is zero at w = 0.5 for this l2."""
    l2 = 2 / (1 + np.exp(1.0))
    params, _, gradient = solve([[-1.0], [1.0]], np.eye(2), l2)
    np.testing.assert_allclose(params["weights"], [[-0.5, 0.5]], atol=2e-4)
    assert gradient < 1e-4


@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-3])
def test_the_gradient_vanishes_in_float64(l2):
    """The problem is convex, so a point without gradient is the optimum; soft labels as well as hard ones."""
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(60, 8)).astype(np.float32), rng.dirichlet(np.ones(4), 60)
    params, _, _ = solve(features, targets, l2)
    weights, bias = (np.asarray(params[name], np.float64) for name in ("weights", "bias"))
    scores = features @ weights + bias
    probabilities = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    error = (probabilities - targets) / len(targets)
    assert np.abs(features.T @ error + l2 * weights).max() < 2e-4
    assert np.abs(error.sum(0)).max() < 2e-4
    assert np.abs(weights).max() > 0.01


def test_separable_classes_are_separated():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 20)
    train = split(100 + 30 * np.eye(3)[labels] + rng.normal(size=(60, 3)), labels, 3)  # far from mean 0, deviation 1
    probe = linear_probe.fit(train, train.image_features, score(train))
    np.testing.assert_array_equal(probe.logits(train.image_features).argmax(1), labels)


# Three images of class 0 for each of class 1: a strong penalty leaves the bias alone, which always answers 0.
TRAIN = split([[-1.0], [-1.2], [-0.8], [1.0]] * 4, [0, 0, 0, 1] * 4)


@pytest.mark.parametrize(
    ("validation", "select_by", "expected"),
    [
        (split([[-1.0], [1.0]], [0, 1]), "war", 1e-3),
        (split([[-1.0], [1.0]], [0, 0]), "war", 1e3),
        (split([[-1.0]], [0]), "war", 1e3),  # both are right: the stronger
        # Accuracy 0.8 for the strong, 0.6 for the weak; mean recall 0.5 and 0.75.
        (split([[1.0], [1.0], [-1.0], [-1.0], [1.0]], [0, 0, 0, 0, 1]), "war", 1e3),
        (split([[1.0], [1.0], [-1.0], [-1.0], [1.0]], [0, 0, 0, 0, 1]), "uar", 1e-3),
    ],
)
def test_validation_chooses_the_penalty(validation, select_by, expected):
    found = linear_probe.fit(TRAIN, validation.image_features, score(validation, select_by), grid=(1e3, 1e-3))
    assert found.l2 == expected


def test_votes_are_what_it_learns():
    """Without a penalty to speak of, of two images it gives back their votes."""
    votes = np.array([[0.75, 0.25], [0.1, 0.9]], np.float32)
    train = dataclasses.replace(split([[-3.0], [5.0]], [0, 1]), label_distributions=votes)
    probe = linear_probe.fit(train, train.image_features, score(train), grid=(1e-6,))
    np.testing.assert_allclose(softmax(probe.logits(train.image_features)), votes, atol=1e-3)


def test_a_feature_that_never_changes_does_no_harm():
    constant = split(np.hstack([TRAIN.image_features, np.full((16, 1), 7.0)]), TRAIN.labels)
    one = linear_probe.fit(constant, constant.image_features, score(constant), grid=(1e-2,))
    two = linear_probe.fit(TRAIN, TRAIN.image_features, score(TRAIN), grid=(1e-2,))
    np.testing.assert_allclose(one.logits(constant.image_features), two.logits(TRAIN.image_features), atol=1e-3)


def test_a_feature_that_never_changed_is_not_magnified():
    """The mean of equal values is not exact, so that their deviation is not 0."""
    features = np.hstack([TRAIN.image_features, np.full((16, 1), 0.1, np.float32)])
    assert 0 < features.std(axis=0)[-1] < 1e-6
    probe = linear_probe.fit(split(features, TRAIN.labels), features[:1], lambda _: 0.0, grid=(1e-2,))
    assert probe.scale[-1] == 1.0


def test_the_same_bits_twice():
    one, two = (linear_probe.fit(TRAIN, TRAIN.image_features, score(TRAIN)) for _ in range(2))
    np.testing.assert_array_equal(one.weights, two.weights)
    assert one.l2 == two.l2
