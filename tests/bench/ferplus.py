"""Photographs of faces: FERPlus' PublicTest, labelled by majority."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mpafer_jax.data.preprocess import decode
from mpafer_jax.data.readers import ferplus
from mpafer_jax.runtime.errors import DataError

CLASS_NAMES = ferplus.CLASS_NAMES
_RULE = "majority_labelcsv"


def public_test(folder: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Its 3,191 images uint8[n, 48, 48] and labels int64[n], in the order of CLASS_NAMES.

    Args:
      folder: with FERPlus in its owners' layout (docs/datasets.md), or with arrays of its rows in images.npz, where
        labels are -1 without a majority.

    Raises:
      DataError: the folder holds neither, or no images of PublicTest.
    """
    if not (folder / "images.npz").is_file():
        index = ferplus.read(folder, _RULE)
        if "validation" not in index.splits:
            raise DataError(f"{folder}: no images of PublicTest; expected {index.absent['validation']}")
        records = index.splits["validation"]
        faces = [np.asarray(decode(image.read()).convert("L")) for record in records for image in record.frames]
        return np.stack(faces), np.array([record.label for record in records], np.int64)
    with np.load(folder / "images.npz", allow_pickle=False) as stored:
        arrays: dict[str, npt.NDArray[Any]] = {name: stored[name] for name in ("images", "usage", "canonical", _RULE)}
    rows = np.flatnonzero((arrays["usage"] == "PublicTest") & arrays["canonical"] & (arrays[_RULE] >= 0))
    return arrays["images"][rows], arrays[_RULE][rows].astype(np.int64)
