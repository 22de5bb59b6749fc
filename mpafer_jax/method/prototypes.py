"""Class prototypes: mean image feature of each class under the frozen, un-prompted CLIP (MPA-FER Eq. 6)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mpafer_jax.runtime.errors import ConfigError


def choose_images(labels: npt.NDArray[np.int32], images_per_class: int, seed: int) -> npt.NDArray[np.int64]:
    """Ascending positions of up to n images per class, drawn by seed; all if n is 0."""
    if not images_per_class:
        return np.arange(len(labels))
    order = np.random.default_rng(seed).permutation(len(labels))
    rank_in_class = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        rank_in_class[members] = np.arange(len(members))
    return np.flatnonzero(rank_in_class < images_per_class)


def mean_features(
    features: npt.NDArray[np.float32], labels: npt.NDArray[np.int32], class_names: tuple[str, ...], *, normalize: bool
) -> npt.NDArray[np.float32]:
    """p_c [C, D]: mean of each class's features.

    Args:
      features: z^g [n, D].
      labels: [n], indices of `class_names`.
      class_names: C names, for the error.
      normalize: whether to L2-normalise every feature first.
    """
    empty = [name for label, name in enumerate(class_names) if not np.any(labels == label)]
    if empty:
        raise ConfigError(
            f"no training image shows {', '.join(empty)}, so there is no prototype; leave the class out of "
            "data.class_names or set loss.gamma to 0"
        )
    prototypes = np.empty((len(class_names), features.shape[1]), np.float32)
    for label in range(len(class_names)):
        members = features[labels == label].astype(np.float64)  # float32 sums would lose digits
        if normalize:
            members /= np.linalg.norm(members, axis=1, keepdims=True)
        prototypes[label] = members.mean(axis=0)
    return prototypes
