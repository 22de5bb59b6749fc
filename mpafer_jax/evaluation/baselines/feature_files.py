"""Writes frozen features as .npz files, for experiments outside this package (`cli.cache_features`)."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np
from absl import logging

from mpafer_jax.artifacts.description import circumstances
from mpafer_jax.config.schema import Config
from mpafer_jax.data.splits import Split, load_dataset
from mpafer_jax.method import build
from mpafer_jax.method.features import FrozenFeatures, encode_splits
from mpafer_jax.runtime import devices, distributed, files, preemption
from mpafer_jax.runtime.errors import ConfigError


def write(config: Config, names: Sequence[str], out: pathlib.Path) -> None:
    """Computes, or reads from the cache, the features of the named splits and writes `<out>/<split>.npz` and
    `features.json`.

    Raises:
      signals.Preempted: stopped on request; what was computed stays in the cache.
    """
    devices.check_batch_size("eval.batch_size", config.eval.batch_size)
    clip = build.load_before_data(config)
    dataset = load_dataset(config.data)
    splits = [split for split in (dataset.train, *dataset.held_out) if len(split) and split.name in names]
    if not splits:
        raise ConfigError(f"config.data makes none of the splits {', '.join(names)}")
    experiment = build.build_experiment(config, dataset.class_names, clip)
    with preemption.Notice():
        features = encode_splits(config, experiment, splits)
    if not distributed.is_first():
        return
    for split in splits:
        path = out / f"{split.name}.npz"
        _write_split(path, split, features[split.name])
        logging.info("written: %s, %d images", path, len(features[split.name]))
    files.write_json(
        out / "features.json",
        {
            "clip": {
                "name": clip.name,
                "hash": clip.content_hash,
                "dtype": config.clip.dtype,
                "residual_dtype": config.clip.residual_dtype,
            },
            "class_names": list(dataset.class_names),
            "data": dataset.description.splitlines(),
            "fingerprints": {split.name: split.fingerprint for split in splits},
            **circumstances(),
        },
    )


def _write_split(path: pathlib.Path, split: Split, features: FrozenFeatures) -> None:
    images, _ = split.frames()
    with files.replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez(
            stream,
            allow_pickle=False,
            image_features=features.image_features,
            labels=features.labels,
            label_distributions=features.label_distributions,
            names=images.names,
            pixel_hashes=images.pixel_hashes,
            class_names=np.array(split.class_names),
        )
