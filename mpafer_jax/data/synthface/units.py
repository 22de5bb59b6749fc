"""Facial action units of the renderer (Ekman, Friesen and Hager, Facial Action Coding System: The Manual, 2002)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

NAMES: dict[int, str] = {
    1: "inner brow raiser",
    2: "outer brow raiser",
    4: "brow lowerer",
    5: "upper lid raiser",
    6: "cheek raiser",
    7: "lid tightener",
    9: "nose wrinkler",
    10: "upper lip raiser",
    12: "lip corner puller",
    14: "dimpler",
    15: "lip corner depressor",
    16: "lower lip depressor",
    17: "chin raiser",
    20: "lip stretcher",
    23: "lip tightener",
    24: "lip pressor",
    25: "lips part",
    26: "jaw drop",
    27: "mouth stretch",
    43: "eyes closed",
}
UNITS = tuple(NAMES)
INDEX: dict[int, int] = {unit: row for row, unit in enumerate(UNITS)}

# Units of jaw, chin and the orbicularis oris are bilateral.
ONE_SIDED = frozenset(UNITS) - {17, 23, 24, 25, 26, 27}

Intensities = npt.NDArray[np.float32]
"""float32[len(UNITS), 2] in [0, 1], 0 is relaxed; columns: left and right side of the image."""


def checked(values: Intensities) -> Intensities:
    """Returns `values`; ValueError unless it is a valid array of intensities."""
    if values.shape != (len(UNITS), 2):
        raise ValueError(f"unit intensities have the shape {values.shape}, expected {(len(UNITS), 2)}")
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"unit intensities must be in 0..1, found {values.min()} to {values.max()}")
    return values
