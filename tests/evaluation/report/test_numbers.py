"""The numbers that only a report shows: calibration, neighbours, maps. Worked out by hand, or where they are known."""

import numpy as np
import pytest

from mpafer_jax.evaluation import feature_map
from mpafer_jax.evaluation.calibration import calibrate


def test_calibration_by_hand():
    confidence = np.array([0.55, 0.6, 0.75, 0.9, 0.95])
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    found = calibrate(probabilities, np.array([0, 1, 0, 0, 1]), num_bins=5)
    # (0.4, 0.6]: 0.55 right, 0.6 wrong; (0.6, 0.8]: 0.75 right; (0.8, 1]: 0.9 right, 0.95 wrong.
    assert [part.count for part in found.bins] == [0, 0, 2, 1, 2]
    assert found.bins[0].accuracy is found.bins[0].confidence is None
    assert found.bins[2].confidence == pytest.approx(0.575)
    assert found.bins[2].accuracy == 0.5
    assert found.ece == pytest.approx((2 * 0.075 + 1 * 0.25 + 2 * 0.425) / 5)
    assert found.confidence == pytest.approx(0.75)
    assert found.accuracy == pytest.approx(0.6)


def test_calibration_at_the_ends():
    certain = calibrate(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 1]))
    assert certain.ece == 0.0
    assert certain.bins[-1].count == 2
    with pytest.raises(ValueError, match="no predictions"):
        calibrate(np.zeros((0, 3)), np.zeros(0, np.int64))


def test_neighbours_by_hand():
    """Four directions; cosine, so lengths count for nothing."""
    features = np.array([[1.0, 0.0], [9.0, 0.9], [0.0, 1.0], [-0.1, 2.0]])
    assert feature_map.neighbour_agreement(features, np.array([0, 0, 1, 1]), k=1) == 1.0
    assert feature_map.neighbour_agreement(features, np.array([0, 1, 1, 1]), k=1) == 0.5
    assert feature_map.neighbour_agreement(features, np.array([0, 0, 1, 1]), k=3) == pytest.approx(1 / 3)  # all others


def test_a_map_keeps_clusters_together():
    rng = np.random.default_rng(0)
    centers = np.eye(8)[np.repeat(np.arange(3), 20)]
    before = centers + 2.0 * rng.normal(size=centers.shape)
    after = centers + 0.05 * rng.normal(size=centers.shape)
    labels = np.repeat(np.arange(3), 20)
    first, second = feature_map.embed_pair(before, after)
    assert first.shape == second.shape == (60, 2)

    def together(points):
        distance = np.linalg.norm(points[:, None] - points[None], axis=-1) + 1e9 * np.eye(60)
        return np.mean(labels[distance.argmin(axis=1)] == labels)

    assert together(second) == 1.0
    assert together(first) < 0.8
    again, _ = feature_map.embed_pair(before, after)
    np.testing.assert_array_equal(first, again)
    with pytest.raises(ValueError, match="12 images, found 11"):
        feature_map.embed_pair(before[:11], after[:11])
