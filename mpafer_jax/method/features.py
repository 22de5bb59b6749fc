"""Image features of the frozen, un-prompted CLIP: what prototypes and baselines read, computed once."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from absl import logging

from mpafer_jax.config.schema import Config
from mpafer_jax.data.splits import Split
from mpafer_jax.method import build, feature_store, steps
from mpafer_jax.method.build import Experiment
from mpafer_jax.runtime import devices, progress
from mpafer_jax.runtime.finite import check_rows

FeatureStep = Callable[[dict[str, Any], Any], Any]  # what `steps.make_feature_step` returns
_PART = 8192  # images between which features may be stored
_KEEP_SECONDS = 300.0  # and after how long they are: the file is written anew each time


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenFeatures:
    """One split of n images, without augmentation.

    Attributes:
      image_features: z^g float32[n, D], not normalised.
      labels: int32[n].
      label_distributions: float32[n, C], each row sums to 1.
    """

    image_features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    label_distributions: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.labels)


def encode_splits(config: Config, built: Experiment, splits: Sequence[Split]) -> dict[str, FrozenFeatures]:
    """The features of every image of every split, by the splits' names; each process gets all of them.

    What the store holds (`feature_store`) is read, the rest is computed and stored: of a large dataset part by part, so
    that a run that is stopped meanwhile goes on behind what it has computed.

    Raises:
      DataError: the store's file is damaged.
      NonFiniteError: the CLIP's feature of an image is NaN or infinite.
    """
    width = built.model.clip_config.projection_dim
    store = feature_store.open_store(config, built.clip_hash, width)
    found: dict[str, FrozenFeatures] = {}
    for split in splits:
        known, features = store.find(split.pixel_hashes)
        missing = np.flatnonzero(~known)
        logging.debug("frozen features of %s: %d of %d from %s", split.name, known.sum(), len(split), store.path)
        if len(missing):
            kept = time.monotonic()
            step = steps.make_feature_step(model=built.model, mean=config.data.mean, std=config.data.std)
            waiting = list[int]()  # positions of features that are not in the store yet
            size = config.eval.batch_size * max(1, _PART // config.eval.batch_size)
            with progress.task("frozen features", len(missing)) as work:
                for part in np.split(missing, range(size, len(missing), size)):
                    features[part] = _encode(config, built, split.take(part), step)
                    work.advance(len(part))
                    waiting += part.tolist()
                    if part[-1] == missing[-1] or time.monotonic() - kept > _KEEP_SECONDS:
                        store.add(split.pixel_hashes[waiting], features[waiting])
                        waiting, kept = [], time.monotonic()
        found[split.name] = FrozenFeatures(features, split.labels, split.label_distributions)
    return found


def _encode(config: Config, built: Experiment, split: Split, step: FeatureStep) -> npt.NDArray[np.float32]:
    # Every row is written: the batches hold each position once, and NaN would show one that was forgotten.
    features = np.full((len(split), built.model.clip_config.projection_dim), np.nan, np.float32)
    parts = (
        {"image": batch["image"], "index": batch["index"], "mask": batch["mask"]}
        for batch in build.eval_batches(config, built, split, "frozen features of")
    )
    for encoded in devices.results(functools.partial(step, built.frozen.clip), parts):
        real = encoded["mask"] > 0
        features[encoded["index"][real]] = encoded["image_features"][real]
    check_rows("frozen features", features, split.names)
    return features
