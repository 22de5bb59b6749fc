"""Distances from training images, beside scikit-learn's and by hand."""

import numpy as np
from sklearn.covariance import LedoitWolf

from mpafer_jax.method.outliers import fit_gaussian, mahalanobis, mean_patch


def test_the_distance_is_scikit_learns():
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(6, 6))
    features, others = ((rng.normal(size=(n, 6)) @ mixing + 3).astype(np.float32) for n in (40, 5))
    squared = LedoitWolf().fit(features.astype(np.float64)).mahalanobis(others)
    np.testing.assert_allclose(mahalanobis(others, *fit_gaussian(features)), np.sqrt(squared), rtol=1e-3)


def test_the_mean_is_at_no_distance_and_a_covariance_without_rank_is_one_too():
    features = np.zeros((4, 3), np.float32)  # of one image, four times
    mean, whitening = fit_gaussian(features + 2)
    np.testing.assert_array_equal(mean, [2, 2, 2])
    assert np.isfinite(whitening).all()
    near, far = mahalanobis(np.array([[2, 2, 2], [2, 2, 3]], np.float32), mean, whitening)
    assert near == 0
    assert far > 1


def test_the_mean_of_patches():
    patches = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    np.testing.assert_array_equal(mean_patch(patches), [[4.5, 5.5, 6.5], [16.5, 17.5, 18.5]])
