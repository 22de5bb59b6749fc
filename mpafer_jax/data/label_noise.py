"""Synthetic label noise."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int32]
Distributions = npt.NDArray[np.float32]


def replace_labels(labels: Labels, num_classes: int, fraction: float, seed: int) -> Labels:
    """Gives a share of every class the label of another class, each other class equally likely (symmetric noise).

    The share is taken class by class, as in Self-Cure Network (Wang et al., CVPR 2020). What is replaced for a smaller
    fraction is replaced by the same labels for a larger one, so that noise levels differ only by what is added.

    Args:
      labels: int32[n].
      num_classes: C, at least 2.
      fraction: of the images of each class, rounded to a whole number of them.
      seed: the result is a pure function of all arguments.

    Returns:
      int32[n]; it differs from `labels` in round(fraction * n_c) places of each class c.
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
    """Permutes label distributions consistently with the noisy labels.

    Args:
      distributions: float32[n, C].
      labels: int32[n], the true ones.
      noisy: int32[n].

    Returns:
      float32[n, C]: in every row the weights of the true and of the noisy label have changed places. The sums and
      the sharpness stay, and a row that was largest at its true label is largest at the noisy one.
    """
    moved, rows = distributions.copy(), np.arange(len(labels))
    moved[rows, noisy] = distributions[rows, labels]
    moved[rows, labels] = distributions[rows, noisy]
    return moved
