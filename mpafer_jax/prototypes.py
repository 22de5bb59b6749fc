"""Class prototypes: the mean image feature of each class under the frozen, un-prompted CLIP (MPA-FER Eq. 6)."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from absl import logging

from mpafer_jax import devices, distributed, files
from mpafer_jax.config import ConfigError
from mpafer_jax.data.pipeline import Batch


def choose_images(labels: npt.NDArray[np.int32], images_per_class: int, seed: int) -> npt.NDArray[np.int64]:
    """Which images make the prototypes: up to n of every class, drawn by seed; all where n is 0.

    Returns:
      Ascending positions in `labels`.
    """
    if not images_per_class:
        return np.arange(len(labels))
    order = np.random.default_rng(seed).permutation(len(labels))
    rank_in_class = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        rank_in_class[members] = np.arange(len(members))
    return np.flatnonzero(rank_in_class < images_per_class)


def cache_key(**contents: Any) -> str:
    """A short name for everything that the prototypes depend on: CLIP's hash, data, n, seed, sizes."""
    text = json.dumps(contents, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def mean_features(
    batches: Iterable[Batch],
    clip_params: dict[str, Any],
    step: Callable[..., dict[str, jax.Array]],
    class_names: tuple[str, ...],
) -> npt.NDArray[np.float32]:
    """p_c [C, D]: the mean over all batches of the features that `steps.make_prototype_step` sums.

    Raises:
      ConfigError: a class without a single image, which has no prototype.
    """
    total: Any = 0.0
    count: Any = 0.0
    for batch in batches:
        part = {"image": batch["image"], "label": batch["label"], "mask": batch["mask"]}
        sums = devices.to_host(step(clip_params, devices.shard_batch(part)))
        # float64 on the host: adding thousands of float32 batches would lose digits with the order of the batches.
        total = total + np.asarray(sums["sum"], np.float64)
        count = count + np.asarray(sums["count"], np.float64)
    empty = [name for name, n in zip(class_names, count, strict=True) if n == 0]
    if empty:
        raise ConfigError(
            f"no training image shows {', '.join(empty)}, so there is no prototype; leave the class out of "
            "data.class_names or set loss.gamma to 0"
        )
    return (total / count[:, None]).astype(np.float32)


def load_or_compute(
    path: pathlib.Path, compute: Callable[[], npt.NDArray[np.float32]], shape: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """Reads prototypes from a file whose name holds their `cache_key`, or computes and stores them.

    Only process 0 looks for the file and writes it, since all compute or none does: the processes do so together.

    Args:
      path: an .npy file; it is written under a temporary name first.
      compute: called where the file is not there, returns [C, D].
      shape: (C, D).
    """
    stored = np.zeros(shape, np.float32)
    found = distributed.is_first() and path.is_file()
    if found:
        logging.info("read from %s", path)
        stored = np.load(path, allow_pickle=False)
    found, stored = distributed.broadcast((np.asarray(found), stored))
    if found:
        return stored
    prototypes = compute()
    if distributed.is_first():
        with files.replacing(path) as temporary, temporary.open("wb") as stream:
            np.save(stream, prototypes, allow_pickle=False)
        logging.info("stored in %s", path)
    return prototypes
