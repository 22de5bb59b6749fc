"""Arrays that are computed once."""

import numpy as np

from mpafer_jax import stored_array


def test_it_is_read_and_left_whole(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return np.ones((2, 3), np.float32)

    path = tmp_path / "new" / "x.npy"
    for _ in range(2):
        np.testing.assert_array_equal(stored_array.load_or_compute(path, compute, (2, 3)), np.ones((2, 3)))
    assert calls == [1]
    assert [p.name for p in path.parent.iterdir()] == ["x.npy"]


def test_key_changes_with_any_content():
    base = {"clip": "a", "data": "b", "images_per_class": 0}
    keys = {stored_array.cache_key(**{**base, name: 7}) for name in base} | {stored_array.cache_key(**base)}
    assert len(keys) == 4
