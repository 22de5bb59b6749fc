"""Image features of the frozen, un-prompted CLIP: what prototypes and baselines read, computed once."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from absl import logging

from mpafer_jax.config.schema import Config
from mpafer_jax.data.splits import Split
from mpafer_jax.method import build, feature_store, steps
from mpafer_jax.method.build import Experiment
from mpafer_jax.method.forward import Forward
from mpafer_jax.runtime import devices, progress
from mpafer_jax.runtime.finite import check_rows

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


def encode_splits(config: Config, experiment: Experiment, splits: Sequence[Split]) -> dict[str, FrozenFeatures]:
    """The features of every image of every split, by the splits' names; each process gets all of them.

    What the store holds (`feature_store`) is read, the rest is computed and stored: of a large dataset part by part, so
    that a run that is stopped meanwhile goes on behind what it has computed.
    """
    width = experiment.model.clip_config.projection_dim
    store = feature_store.open_store(config, experiment.clip_hash, width)
    frozen: dict[str, FrozenFeatures] = {}
    for split in splits:
        known, features = store.find(split.pixel_hashes)
        missing = np.flatnonzero(~known)
        logging.debug("frozen features of %s: %d of %d from %s", split.name, known.sum(), len(split), store.path)
        if len(missing):
            stored_at = time.monotonic()
            forward = Forward(experiment.model, config.data.mean, config.data.std)
            step = devices.data_parallel(steps.make_feature_step(forward))
            waiting = list[int]()  # positions of features that are not in the store yet
            size = config.eval.batch_size * max(1, _PART // config.eval.batch_size)
            with progress.task("frozen features", len(missing)) as work:
                for part in np.split(missing, range(size, len(missing), size)):
                    features[part] = _encode(config, experiment, split.take(part), step)
                    work.advance(len(part))
                    waiting += part.tolist()
                    if part[-1] == missing[-1] or time.monotonic() - stored_at > _KEEP_SECONDS:
                        store.add(split.pixel_hashes[waiting], features[waiting])
                        waiting, stored_at = [], time.monotonic()
        frozen[split.name] = FrozenFeatures(features, split.labels, split.label_distributions)
    return frozen


def _encode(config: Config, experiment: Experiment, split: Split, step: steps.ClipStep) -> npt.NDArray[np.float32]:
    # Every row is written: the batches hold each position once, and NaN would show one that was forgotten.
    features = np.full((len(split), experiment.model.clip_config.projection_dim), np.nan, np.float32)
    parts = (
        {"image": batch["image"], "index": batch["index"], "mask": batch["mask"]}
        for batch in build.eval_batches(config, experiment, split, "frozen features of")
    )
    for encoded in devices.results(functools.partial(step, experiment.frozen.clip), parts):
        real = encoded["mask"] > 0
        features[encoded["index"][real]] = encoded["image_features"][real]
    check_rows("frozen features", features, split.names)
    return features
