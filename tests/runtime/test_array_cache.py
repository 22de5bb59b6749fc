"""Arrays that are computed once."""

import numpy as np
import pytest

from mpafer_jax.runtime import array_cache
from mpafer_jax.runtime.errors import DataError, NonFiniteError


def test_it_is_read_and_left_whole(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return np.ones((2, 3), np.float32)

    path = tmp_path / "new" / "x.npy"
    for _ in range(2):
        np.testing.assert_array_equal(array_cache.load_or_compute(path, compute, (2, 3)), np.ones((2, 3)))
    assert calls == [1]
    assert [p.name for p in path.parent.iterdir()] == ["x.npy"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"nothing", "is damaged .* delete it"),
        (np.ones((3, 2), np.float32), r"holds float32 \[3, 2\], expected float32 \[2, 3\].* delete it"),
        (np.ones((2, 3)), r"holds float64 \[2, 3\], expected float32 \[2, 3\]"),
        (np.full((2, 3), np.nan, np.float32), r"holds float32 \[2, 3\], .* all of it finite; delete it"),
    ],
)
def test_a_file_that_holds_something_else_is_named(tmp_path, content, message):
    path = tmp_path / "x.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises(DataError, match=rf"x\.npy {message}"):
        array_cache.load_or_compute(path, lambda: np.ones((2, 3), np.float32), (2, 3))


def test_what_is_not_finite_is_not_stored(tmp_path):
    with pytest.raises(NonFiniteError, match=r"x\.npy \(1 of 2\)"):
        array_cache.load_or_compute(tmp_path / "x.npy", lambda: np.array([1, np.inf], np.float32), (2,))
    assert list(tmp_path.iterdir()) == []


def test_key_changes_with_any_content():
    base = {"clip": "a", "data": "b", "images_per_class": 0}
    keys = {array_cache.cache_key(**{**base, name: 7}) for name in base} | {array_cache.cache_key(**base)}
    assert len(keys) == 4
