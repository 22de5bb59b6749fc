"""Which images make prototypes, and their cache."""

import numpy as np
import pytest

from mpafer_jax import devices, prototypes

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


def test_mean_over_batches_by_hand():
    batches = [{"image": np.zeros((8, 1)), "label": np.zeros(8), "mask": np.ones(8)}] * 2
    sums = iter([([[2.0, 4.0], [1.0, 0.0]], [2, 1]), ([[4.0, 2.0], [1.0, 2.0]], [1, 1])])

    def step(clip_params, batch):
        assert batch["image"].shape == (8, 1, 1)
        total, count = next(sums)
        return devices.replicate({"sum": np.asarray(total, np.float32), "count": np.asarray(count, np.float32)})

    found = prototypes.mean_features(batches, {}, step, ("a", "b"))
    np.testing.assert_allclose(found, [[2, 2], [1, 1]])


def test_class_without_images_is_named():
    batches = [{"image": np.zeros((8, 1)), "label": np.zeros(8), "mask": np.ones(8)}]

    def step(clip_params, batch):
        return devices.replicate({"sum": np.ones((2, 3), np.float32), "count": np.array([1.0, 0.0], np.float32)})

    with pytest.raises(ValueError, match="no training image shows fear"):
        prototypes.mean_features(batches, {}, step, ("anger", "fear"))


def test_cache_is_read_and_left_whole(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return np.ones((2, 3), np.float32)

    path = tmp_path / "new" / "prototypes-x.npy"
    for _ in range(2):
        np.testing.assert_array_equal(prototypes.load_or_compute(path, compute, (2, 3)), np.ones((2, 3)))
    assert calls == [1]
    assert [p.name for p in path.parent.iterdir()] == ["prototypes-x.npy"]


def test_key_changes_with_any_content():
    base = {"clip": "a", "data": "b", "images_per_class": 0}
    keys = {prototypes.cache_key(**{**base, name: 7}) for name in base} | {prototypes.cache_key(**base)}
    assert len(keys) == 4
