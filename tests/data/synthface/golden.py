"""What the renderer's version draws, coarsely: mean colours of 12x12 pixels.

    python -m tests.data.synthface.golden

writes the fixture anew; do so when `generate.VERSION` is raised or a style is added, and only then.
"""

import pathlib

import numpy as np

from mpafer_jax.data.synthface import generate
from mpafer_jax.data.synthface.styles import STYLES

FOLDER = pathlib.Path(__file__).parent / "fixtures"


def path():
    return FOLDER / f"coarse_images_{generate.VERSION}.npz"


def coarse():
    """For each style uint8[3, 8, 8, 3]."""
    found = {}
    for name, style in STYLES.items():
        jobs = [generate.face_of(5, "test", 8 * n, style).job for n in range(3)]
        images = generate.render_all(jobs, 96, processes=1).astype(np.float64)
        found[name] = images.reshape(len(jobs), 8, 12, 8, 12, 3).mean(axis=(2, 4)).round().astype(np.uint8)
    return found


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(path(), allow_pickle=False, **coarse())
