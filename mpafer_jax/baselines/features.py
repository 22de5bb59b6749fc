"""Image features of the frozen, un-prompted CLIP: what every baseline reads, computed once."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from absl import logging

from mpafer_jax import devices, experiment, steps
from mpafer_jax.config import Config
from mpafer_jax.data.splits import Split
from mpafer_jax.experiment import Experiment


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
    """The features of every image of every split, by the splits' names; each process gets all of them."""
    step = steps.make_feature_step(model=built.model, mean=config.data.mean, std=config.data.std)
    found: dict[str, FrozenFeatures] = {}
    for split in splits:
        started = time.monotonic()
        # Every row is written: the batches hold each position once, and NaN would show one that was forgotten.
        features = np.full((len(split), built.model.clip_config.projection_dim), np.nan, np.float32)
        for batch in experiment.eval_batches(config, built, split):
            part = {"image": batch["image"], "index": batch["index"], "mask": batch["mask"]}
            encoded = devices.to_host(step(built.frozen.clip, devices.shard_batch(part)))
            real = np.asarray(encoded["mask"]) > 0
            features[np.asarray(encoded["index"])[real]] = np.asarray(encoded["image_features"])[real]
        found[split.name] = FrozenFeatures(features, split.labels, split.label_distributions)
        seconds = time.monotonic() - started
        logging.info("baselines: %d frozen features of %s in %.1f s", len(split), split.name, seconds)
    return found
