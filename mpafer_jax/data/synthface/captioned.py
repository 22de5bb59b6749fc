"""Drawn faces with captions, for pre-training: random action units, each face another person, no expression."""

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
from mpafer_jax.runtime import files

CAPTIONS_PER_IMAGE = 4
_FACE, _CAMERA, _CAPTION = range(3)  # streams of random numbers
_CODE = 0x7072  # apart from the splits of labelled faces, which `generate.face_of` draws from the same seeds


def sample_jobs(number: int, styles: Sequence[Style], seed: int) -> list[Job]:
    """Faces at random, styles drawn evenly; a longer list starts with a shorter one."""
    jobs: list[Job] = []
    for index in range(number):
        rng = np.random.default_rng((seed, _CODE, _FACE, index))
        style = styles[int(rng.integers(len(styles)))]
        identity, units = sample_identity(rng), sample_random_units(rng)
        face = Face(identity, units, suited(sample_scene(rng, style.occlusion), identity))
        jobs.append(Job(face, style, (seed, _CODE, _CAMERA, index)))
    return jobs


def describe(jobs: Sequence[Job], held_out: int, seed: int) -> list[tuple[str, ...]]:
    """Captions of each face; the last `held_out` get one each, in words that the others' captions never use."""
    described: list[tuple[str, ...]] = []
    for index, job in enumerate(jobs):
        rng = np.random.default_rng((seed, _CODE, _CAPTION, index))
        last = index >= len(jobs) - held_out
        number = 1 if last else CAPTIONS_PER_IMAGE
        described.append(tuple(captions.caption(job.face, job.style, rng, held_out=last) for _ in range(number)))
    return described


def fingerprint(jobs: Sequence[Job], size: int) -> str:
    """Hex digest of all that the jobs' images follow from."""
    drawn = [(job.style, job.seed, job.face.identity, job.face.scene, job.face.units.tolist()) for job in jobs]
    return hashlib.sha256(repr((VERSION, size, drawn)).encode()).hexdigest()


def draw(jobs: Sequence[Job], size: int, folder: Path) -> npt.NDArray[np.uint8]:
    """uint8[n, size, size, 3], drawn once and kept in `folder`; read from there as memory-mapped pages."""
    path = folder / f"faces-{fingerprint(jobs, size)[:16]}.npy"
    if not path.is_file():
        logging.debug("drawing %d faces of %d pixels into %s, once", len(jobs), size, path)
        with files.replacing(path) as temporary, temporary.open("wb") as stream:
            np.save(stream, render_all(jobs, size), allow_pickle=False)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def style_names(names: Sequence[str]) -> list[Style]:
    """The named styles."""
    unknown = sorted(set(names) - set(STYLES))
    if unknown or not names:
        raise ValueError(f"data.styles is {tuple(names)}; expected some of {', '.join(STYLES)}")
    return [STYLES[name] for name in names]
