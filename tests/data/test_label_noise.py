from pathlib import Path

import numpy as np
import pytest

from mpafer_jax.data.label_noise import move_weights, replace_labels
from mpafer_jax.data.splits import load_dataset
from mpafer_jax.runtime.errors import DataError
from tests.data import layouts

LABELS = np.repeat(np.arange(4, dtype=np.int32), [100, 40, 15, 1])


def replaced(fraction: float, seed: int = 0) -> np.ndarray:
    return replace_labels(LABELS, 4, fraction, seed)


@pytest.mark.parametrize("seed", range(5))
def test_exactly_its_share_of_every_class_is_replaced(seed: int) -> None:
    changed = replaced(0.3, seed) != LABELS
    assert [int(changed[label == LABELS].sum()) for label in range(4)] == [30, 12, 4, 0]


def test_it_is_a_function_of_the_seed() -> None:
    assert (replaced(0.3, 1) == replaced(0.3, 1)).all()
    assert (replaced(0.3, 1) != replaced(0.3, 2)).any()
    assert (replaced(0.0) == LABELS).all()


def test_more_noise_keeps_what_less_noise_replaced() -> None:
    less, more = replaced(0.1), replaced(0.3)
    changed = less != LABELS
    assert changed.sum() == 16
    assert (more[changed] == less[changed]).all()


def test_every_other_class_is_as_likely() -> None:
    labels = np.full(60_000, 2, np.int32)
    counts = np.bincount(replace_labels(labels, 4, 0.5, 7), minlength=4)
    assert counts[2] == 30_000
    assert np.abs(counts[[0, 1, 3]] - 10_000).max() < 5 * np.sqrt(30_000 * (1 / 3) * (2 / 3))  # five sigma


def test_weights_change_places() -> None:
    distributions = np.array([[0.6, 0.4, 0], [0, 1, 0], [0.5, 0.3, 0.2]], np.float32)
    labels, noisy = np.array([0, 1, 0], np.int32), np.array([2, 0, 0], np.int32)
    expected = np.array([[0, 0.4, 0.6], [1, 0, 0], [0.5, 0.3, 0.2]], np.float32)
    np.testing.assert_array_equal(move_weights(distributions, labels, noisy), expected)


def write(root: Path) -> None:
    layouts.write_folders(root / "train", {"happy": 30, "sad": 20})
    layouts.write_folders(root / "test", {"happy": 6, "sad": 4}, first_seed=100)


def test_only_train_is_touched(tmp_path: Path) -> None:
    write(tmp_path)
    options = {"test_split": "test", "validation_fraction": 0.2}
    clean = load_dataset(layouts.section("folder", tmp_path, **options))
    noisy = load_dataset(layouts.section("folder", tmp_path, label_noise=0.25, label_noise_seed=3, **options))
    for before, after in zip(clean.held_out, noisy.held_out, strict=True):
        assert before.fingerprint == after.fingerprint
        np.testing.assert_array_equal(before.labels, after.labels)
    assert clean.train.names.tolist() == noisy.train.names.tolist()
    assert clean.train.fingerprint != noisy.train.fingerprint
    assert (clean.train.labels != noisy.train.labels).sum() == 6 + 4
    np.testing.assert_array_equal(noisy.train.label_distributions, np.eye(2, dtype=np.float32)[noisy.train.labels])
    assert "train: 10 of 40 labels replaced by another class (25% of each class, seed 3)" in noisy.description


def test_other_noise_is_other_training_data(tmp_path: Path) -> None:
    write(tmp_path)
    sections = [
        layouts.section("folder", tmp_path, label_noise=fraction, label_noise_seed=seed)
        for fraction, seed in ((0.25, 3), (0.25, 4), (0.5, 3))
    ]
    fingerprints = [load_dataset(section).train.fingerprint for section in sections]
    assert len(set(fingerprints)) == 3
    assert load_dataset(sections[0]).train.fingerprint == fingerprints[0]


def test_few_shots_are_drawn_by_their_true_labels(tmp_path: Path) -> None:
    write(tmp_path)
    train = load_dataset(layouts.section("folder", tmp_path, train_per_class=8, label_noise=0.25)).train
    true = np.array([name.startswith("sad") for name in train.names.tolist()])
    assert true.sum() == 8
    assert (train.labels != true).sum() == 4


def test_one_class_leaves_no_other(tmp_path: Path) -> None:
    layouts.write_folders(tmp_path, {"happy": 3})
    with pytest.raises(DataError, match=r"label_noise is 0\.5, but there is one class, 'happy'"):
        load_dataset(layouts.section("folder", tmp_path, label_noise=0.5, class_names=("happy",)))
