"""Image features of the frozen CLIP, kept from run to run: z^g of an image by the hash of its pixels.

    <folder>/<CLIP's hash>-<key>.npz
      hashes      S32[n], ascending: hex digests of the decoded pixels
      features    float32[n, D], not normalised
      about       the key's content, as JSON

Whatever an image's dataset, split or label, its feature under one CLIP is the same, so runs that differ in classes,
label rule, seed, few-shot draw or method find what any run before them computed. The key holds what else the numbers
depend on. A file that is deleted is made again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import filelock
import jax
import numpy as np
import numpy.typing as npt
from absl import logging

from mpafer_jax.config.schema import Config
from mpafer_jax.data.registry import prepared_root
from mpafer_jax.runtime import devices, distributed, files
from mpafer_jax.runtime.errors import DataError
from mpafer_jax.runtime.finite import finite_rows

# Of the tower and the preprocessing: a new number where a change of code changes features by more than rounding.
_VERSION = 1
FOLDER = "features"

Hashes = npt.NDArray[np.bytes_]
Features = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class FeatureStore:
    """One file of features; every process asks it, and process 0 alone reads and writes it.

    Attributes:
      path: the file, which need not be there.
      width: D.
      about: what the features depend on beside the image, for who finds the file.
    """

    path: Path
    width: int
    about: dict[str, Any]

    def find(self, pixel_hashes: npt.NDArray[np.str_]) -> tuple[npt.NDArray[np.bool_], Features]:
        """Which images are known, bool[n], and their features float32[n, D], zeros for the others."""
        found = np.zeros(len(pixel_hashes), np.bool_)
        features = np.zeros((len(pixel_hashes), self.width), np.float32)
        if distributed.is_first() and self.path.is_file():
            hashes, stored = self._read()
            wanted = pixel_hashes.astype(np.bytes_)
            rows = np.minimum(np.searchsorted(hashes, wanted), len(hashes) - 1)
            found = hashes[rows] == wanted
            features[found] = stored[rows[found]]
        found, features = distributed.broadcast((found, features))
        return found, np.array(features)  # a copy that can be filled: what comes from another process is read-only

    def add(self, pixel_hashes: npt.NDArray[np.str_], features: Features) -> None:
        """Stores features float32[n, D] of images. Of an image that is there already, what is there stays.

        A folder that cannot be written is logged and nothing more: it costs the next run the time to compute them.
        """
        if not distributed.is_first():
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(f"{self.path}.lock"):  # runs side by side must not lose each other's
                hashes, stored = self._read() if self.path.is_file() else (np.zeros(0, "S32"), features[:0])
                # Of equal hashes `unique` takes the first, so what is there comes first.
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
            # Opened here: of a damaged file NumPy would leave it open.
            with self.path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                hashes, features = arrays["hashes"], arrays["features"]
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{self.path} is damaged ({error}); delete it, and its features are computed anew"
            ) from error
        if features.shape != (len(hashes), self.width) or not len(hashes):
            raise DataError(
                f"{self.path} holds features {list(features.shape)} of {len(hashes)} images, expected "
                f"[{len(hashes)}, {self.width}]; delete it, and they are computed anew"
            )
        if not finite_rows(features).all():
            raise DataError(
                f"{self.path} holds features that are NaN or infinite; delete it, and they are computed anew"
            )
        return hashes, features


def open_store(config: Config, clip_hash: str, width: int) -> FeatureStore:
    """The features of a configuration's CLIP, as it computes them.

    Args:
      config: of the CLIP's type, the normalisation, and the place.
      clip_hash: hash of the CLIP's content.
      width: D.
    """
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
    if settings := devices.unusual_settings():
        about["settings"] = settings
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    own = config.data.features_dir
    folder = files.home_expanded(own) if own else prepared_root(config.data) / FOLDER
    return FeatureStore(folder / f"{clip_hash[:16]}-{key}.npz", width, about)
