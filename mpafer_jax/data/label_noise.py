"""Synthetic label noise."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int32]
Distributions = npt.NDArray[np.float32]


def replace_labels(labels: Labels, num_classes: int, fraction: float, seed: int) -> Labels:
    """Symmetric label noise, class by class as in Self-Cure Network (Wang et al., CVPR 2020).

    Exactly round(fraction * n_c) labels of each class c become one of the C - 1 others, uniformly. Noise is nested: a
    larger fraction of the same seed keeps the replacements of a smaller one.

    Args:
      labels: int32[n].
      num_classes: C, at least 2.

    Returns:
      int32[n].
    """
    noisy = labels.copy()
    for label in np.unique(labels).tolist():
        members = np.flatnonzero(labels == label)
        rng = np.random.default_rng((seed, label))
        order, steps = rng.permutation(members), rng.integers(1, num_classes, len(members))
        replaced = round(fraction * len(members))
        noisy[order[:replaced]] = (label + steps[:replaced]) % num_classes
    return noisy


def move_weights(distributions: Distributions, labels: Labels, noisy: Labels) -> Distributions:
    """Swaps the weights of the true (int32[n]) and the noisy label in every row of float32[n, C]."""
    moved, rows = distributions.copy(), np.arange(len(labels))
    moved[rows, noisy] = distributions[rows, labels]
    moved[rows, labels] = distributions[rows, noisy]
    return moved
