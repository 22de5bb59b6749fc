"""Cache of image features of the frozen, un-prompted CLIP, for prototypes and baselines.

    <folder>/<CLIP's hash>-<key>.npz
      hashes      S32[n], ascending: hex digests of the decoded pixels
      features    float32[n, D], z^g, not normalised
      about       the key's content, as JSON

Features do not depend on dataset, split or label: runs that differ in classes, label rule, seed, few-shot draw or
method share them. The key holds everything that they depend on. Deleted files are recomputed.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from absl import logging

from mpafer_jax.config.schema import Config
from mpafer_jax.data.registry import prepared_root
from mpafer_jax.data.splits import Grouping, Split
from mpafer_jax.method import steps
from mpafer_jax.method.batches import eval_batches
from mpafer_jax.method.build import Experiment
from mpafer_jax.method.forward import Forward
from mpafer_jax.runtime import devices, distributed, files, locks, progress
from mpafer_jax.runtime.errors import DataError
from mpafer_jax.runtime.finite import check_rows, finite_rows

_PART = 8192  # images per part; features are stored between parts only
_STORE_SECONDS = 300.0  # minimum interval between stores, as each rewrites the file
# Increase if a change of the tower or the preprocessing changes features by more than rounding.
_VERSION = 1
FOLDER = "features"

Hashes = npt.NDArray[np.bytes_]
Features = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenFeatures:
    """Features of the m images of a split, or of the frames of its clips, without augmentation.

    Attributes:
      image_features: z^g float32[m, D], not normalised.
      labels: int32[m].
      label_distributions: float32[m, C], each row sums to 1.
      grouping: which images stand for each clip; None for images.
      segments: see `data.splits.Split`.
    """

    image_features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    label_distributions: npt.NDArray[np.float32]
    grouping: Grouping | None = None
    segments: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def of_examples(self, logits: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        """Logits [n, C] and labels [n] of the images or clips, from logits [m, C] of the images."""
        if self.grouping is None:
            return logits, self.labels
        return self.grouping.mean(logits), self.labels[self.grouping.starts]

    def of_segments(self) -> FrozenFeatures:
        """A row for each training example of `data.pipeline`: of each segment of a clip the middle frame's."""
        if self.grouping is None:
            return self
        clip, segment = np.divmod(np.arange(len(self.grouping.starts) * self.segments), self.segments)
        rows = self.grouping.starts[clip] + segment * self.grouping.counts[clip] // self.segments
        return FrozenFeatures(self.image_features[rows], self.labels[rows], self.label_distributions[rows])


def encode_splits(config: Config, experiment: Experiment, splits: Sequence[Split]) -> dict[str, FrozenFeatures]:
    """Features of all images by split name, on every process; of clips, of the frames of `Split.frames`.

    Reads cached features; computes and stores the rest, in parts, so that an interrupted run loses little.
    """
    width = experiment.model.backbone.spec.embedding_size
    store = open_store(config, experiment.clip_hash, width)
    frozen: dict[str, FrozenFeatures] = {}
    for whole in splits:
        split, grouping = whole.frames()
        known, features = store.find(split.pixel_hashes)
        missing = np.flatnonzero(~known)
        logging.debug("frozen features of %s: %d of %d from %s", split.name, known.sum(), len(split), store.path)
        if len(missing):
            stored_at = time.monotonic()
            step = _feature_step(Forward.configured(experiment.model, config.data))
            waiting = list[int]()  # positions of features not stored yet
            size = config.eval.batch_size * max(1, _PART // config.eval.batch_size)
            with progress.task("frozen features", len(missing)) as work:
                for part in np.split(missing, range(size, len(missing), size)):
                    features[part] = _encode(config, experiment, split.take(part), step)
                    work.advance(len(part))
                    waiting += part.tolist()
                    if part[-1] == missing[-1] or time.monotonic() - stored_at > _STORE_SECONDS:
                        store.add(split.pixel_hashes[waiting], features[waiting])
                        waiting, stored_at = [], time.monotonic()
        frozen[split.name] = FrozenFeatures(
            image_features=features,
            labels=split.labels,
            label_distributions=split.label_distributions,
            grouping=grouping if whole.segments else None,
            segments=whole.segments,
        )
    return frozen


@functools.lru_cache(maxsize=1)  # a run encodes several splits at different times, and compiles once
def _feature_step(forward: Forward) -> steps.BackboneStep:
    return devices.data_parallel(steps.make_feature_step(forward))


def _encode(config: Config, experiment: Experiment, split: Split, step: steps.BackboneStep) -> npt.NDArray[np.float32]:
    # Batches hold each position once; NaN would reveal a missing one.
    features = np.full((len(split), experiment.model.backbone.spec.embedding_size), np.nan, np.float32)
    parts = (
        {"image": batch["image"], "index": batch["index"], "mask": batch["mask"]}
        for batch in eval_batches(config, experiment, split, "frozen features of")
    )
    for encoded in devices.results(functools.partial(step, experiment.frozen.backbone), parts):
        real = encoded["mask"] > 0
        features[encoded["index"][real]] = encoded["image_features"][real]
    check_rows("frozen features", features, split.names)
    return features


@dataclasses.dataclass(frozen=True)
class FeatureStore:
    """File of features of width D. All processes call its methods; process 0 reads and writes it."""

    path: Path
    width: int
    about: dict[str, Any]

    def find(self, pixel_hashes: npt.NDArray[np.str_]) -> tuple[npt.NDArray[np.bool_], Features]:
        """Mask bool[n] of stored images, and their features float32[n, D], zeros for the others."""
        known = np.zeros(len(pixel_hashes), np.bool_)
        features = np.zeros((len(pixel_hashes), self.width), np.float32)
        if distributed.is_first() and self.path.is_file():
            hashes, stored = self._read()
            wanted = pixel_hashes.astype(np.bytes_)
            rows = np.minimum(np.searchsorted(hashes, wanted), len(hashes) - 1)
            known = hashes[rows] == wanted
            features[known] = stored[rows[known]]
        known = distributed.broadcast(known)
        if known.any():
            features[known] = distributed.broadcast(features[known])
        return known, features

    def add(self, pixel_hashes: npt.NDArray[np.str_], features: Features) -> None:
        """Stores features float32[n, D] of images that are not stored yet.

        A folder that is not writable is only logged; the next run recomputes them.
        """
        if not distributed.is_first():
            return
        try:
            # Concurrent runs add to the same file.
            with locks.hold(self.path.with_name(f"{self.path.name}.lock"), self.path, wait=True):
                hashes, stored = self._read() if self.path.is_file() else (np.zeros(0, "S32"), features[:0])
                # `unique` keeps the first of equal hashes: stored ones come first.
                hashes, rows = np.unique(np.concatenate([hashes, pixel_hashes.astype(np.bytes_)]), return_index=True)
                stored = np.concatenate([stored, features])[rows]
                with files.replacing(self.path) as temporary, temporary.open("wb") as stream:
                    about = np.array(json.dumps(self.about))
                    np.savez(stream, allow_pickle=False, hashes=hashes, features=stored, about=about)
        except OSError as error:
            if not files.is_not_writable(error):
                raise
            logging.warning(
                "features are not kept: %s cannot be written (%s); config.data.features_dir names another folder",
                self.path.parent,
                error,
            )
        else:
            logging.debug("features: %d images now in %s", len(hashes), self.path)

    def _read(self) -> tuple[Hashes, Features]:
        try:
            # NumPy would not close a damaged file that it opened.
            with self.path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                hashes, features = arrays["hashes"], arrays["features"]
        except (KeyError, *files.DAMAGED_NPZ) as error:
            raise DataError(
                f"{self.path} is damaged ({error}); delete it, and its features are computed again"
            ) from error
        if features.shape != (len(hashes), self.width) or not len(hashes):
            raise DataError(
                f"{self.path} holds features {list(features.shape)} of {len(hashes)} images, expected "
                f"[{len(hashes)}, {self.width}]; delete it, and they are computed again"
            )
        if not finite_rows(features).all():
            raise DataError(
                f"{self.path} holds features that are NaN or infinite; delete it, and they are computed again"
            )
        return hashes, features


def open_store(config: Config, clip_hash: str, width: int) -> FeatureStore:
    """The store of the configured CLIP, whose content has `clip_hash`, with features of width D."""
    about: dict[str, Any] = {
        "clip": clip_hash,
        "dtype": config.clip.dtype,
        "residual_dtype": config.clip.residual_dtype,
        "mean": list(config.data.mean),
        "std": list(config.data.std),
        # Accelerators may multiply float32 with fewer bits.
        "platform": jax.default_backend(),
        "matmul_precision": devices.matmul_precision(),
        "version": _VERSION,
    }
    if config.data.grayscale:
        about["grayscale"] = True
    if settings := devices.unusual_settings():
        about["settings"] = settings
    key = files.json_digest(about)[:16]
    configured = config.data.features_dir
    folder = files.home_expanded(configured) if configured else prepared_root(config.data) / FOLDER
    return FeatureStore(folder / f"{clip_hash[:16]}-{key}.npz", width, about)
