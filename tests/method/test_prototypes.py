"""Which images make prototypes, and what is made of them."""

import numpy as np
import pytest

from mpafer_jax.method import prototypes

LABELS = np.array([0, 1, 0, 0, 1, 2, 0, 1], np.int32)


def test_all_images_by_default():
    np.testing.assert_array_equal(prototypes.choose_images(LABELS, 0, seed=1), np.arange(8))


def test_n_of_every_class_by_seed():
    for seed in range(5):
        chosen = prototypes.choose_images(LABELS, 2, seed)
        assert list(chosen) == sorted(set(chosen))
        np.testing.assert_array_equal(np.bincount(LABELS[chosen]), [2, 2, 1])
        np.testing.assert_array_equal(chosen, prototypes.choose_images(LABELS, 2, seed))
    assert len({tuple(prototypes.choose_images(LABELS, 2, seed)) for seed in range(20)}) > 3


FEATURES = np.array([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]], np.float32)


@pytest.mark.parametrize(
    ("normalize", "expected"),
    [(False, [[1.5, 3.0], [1.0, 0.0]]), (True, [[0.3, 0.9], [1.0, 0.0]])],
)
def test_mean_by_hand(normalize, expected):
    found = prototypes.mean_features(FEATURES, np.array([0, 1, 0]), ("a", "b"), normalize=normalize)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_class_without_images_is_named():
    with pytest.raises(ValueError, match="no training image shows fear"):
        prototypes.mean_features(FEATURES, np.array([0, 0, 0]), ("anger", "fear"), normalize=False)
