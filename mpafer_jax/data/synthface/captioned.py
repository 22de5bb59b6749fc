"""Drawn faces with captions for pre-training: random persons and action units, without expressions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from absl import logging

from mpafer_jax.data.synthface import captions
from mpafer_jax.data.synthface.expressions import sample_random_units
from mpafer_jax.data.synthface.face import Face, sample_identity, sample_scene, suited
from mpafer_jax.data.synthface.generate import VERSION, Job, render_all
from mpafer_jax.data.synthface.styles import STYLES, Style
from mpafer_jax.runtime import files, locks

CAPTIONS_PER_IMAGE = 4
_FACE, _CAMERA, _CAPTION = range(3)  # streams of random numbers
_CODE = 0x7072  # separates these streams from those of `generate.face_of` with the same seed


def sample_jobs(number: int, styles: Sequence[Style], seed: int) -> list[Job]:
    """Samples faces in uniformly sampled styles; prefixes do not depend on `number`."""
    jobs: list[Job] = []
    for index in range(number):
        rng = np.random.default_rng((seed, _CODE, _FACE, index))
        style = styles[int(rng.integers(len(styles)))]
        identity, units = sample_identity(rng), sample_random_units(rng)
        face = Face(identity, units, suited(sample_scene(rng, style.occlusion), identity))
        jobs.append(Job(face, style, (seed, _CODE, _CAMERA, index)))
    return jobs


def describe(jobs: Sequence[Job], held_out: int, seed: int) -> list[tuple[str, ...]]:
    """Captions of each face; the last `held_out` faces get one each, in held-out phrasings."""
    described: list[tuple[str, ...]] = []
    for index, job in enumerate(jobs):
        rng = np.random.default_rng((seed, _CODE, _CAPTION, index))
        last = index >= len(jobs) - held_out
        number = 1 if last else CAPTIONS_PER_IMAGE
        described.append(tuple(captions.caption(job.face, job.style, rng, held_out=last) for _ in range(number)))
    return described


def fingerprint(jobs: Sequence[Job], size: int) -> str:
    """Hex digest of everything that the images depend on."""
    drawn = [(job.style, job.seed, job.face.identity, job.face.scene, job.face.units.tolist()) for job in jobs]
    return hashlib.sha256(repr((VERSION, size, drawn)).encode()).hexdigest()


def draw(jobs: Sequence[Job], size: int, folder: Path) -> npt.NDArray[np.uint8]:
    """uint8[n, size, size, 3], memory-mapped from a cache in `folder`, drawn if missing.

    Of the processes that share the folder one draws and the others wait.
    """
    path = folder / f"faces-{fingerprint(jobs, size)[:16]}.npy"
    if not path.is_file():
        with locks.hold(path.with_name(f"{path.name}.lock"), path, wait=True):
            if not path.is_file():
                logging.debug("drawing %d faces of %d pixels into %s, once", len(jobs), size, path)
                with files.replacing(path) as temporary, temporary.open("wb") as stream:
                    np.save(stream, render_all(jobs, size), allow_pickle=False)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def style_names(names: Sequence[str]) -> list[Style]:
    """The named styles; ValueError for unknown or no names."""
    unknown = sorted(set(names) - set(STYLES))
    if unknown or not names:
        raise ValueError(f"data.styles is {tuple(names)}; expected some of {', '.join(STYLES)}")
    return [STYLES[name] for name in names]
