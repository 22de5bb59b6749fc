"""Many pictures: each from its own seed, so that it does not matter which process draws it, or in which order."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import zlib
from collections.abc import Sequence
from concurrent import futures

import numpy as np
import numpy.typing as npt

from mpafer_jax.synthface.draw import render
from mpafer_jax.synthface.expressions import FREQUENCIES, sample_units
from mpafer_jax.synthface.face import Face, Identity, Scene, choose, sample_identity, sample_scene
from mpafer_jax.synthface.styles import Style

# Counts changes of what is drawn for equal arguments; prepared datasets of another version are not opened.
VERSION = "1"
PICTURES_PER_PERSON = 4
_IDENTITY, _PICTURE, _CAMERA = range(3)  # streams of random numbers
_CHUNK = 32  # jobs a process takes at once


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One picture to draw; `seed` is for what the face leaves open (see `draw.render`)."""

    face: Face
    style: Style
    seed: tuple[int, ...]

    def pixels(self, size: int) -> npt.NDArray[np.uint8]:
        """uint8[size, size, 3]."""
        return np.asarray(render(self.face, self.style, size, np.random.default_rng(self.seed)))


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A labelled job: the expression's name and the number of the person within the split."""

    expression: str
    person: int
    job: Job


def face_of(seed: int, split: str, index: int, style: Style, expressions: Sequence[str] = tuple(FREQUENCIES)) -> Sample:
    """The picture with a number in a split of a dataset; equal arguments give equal pictures.

    Args:
      seed: of the dataset.
      split: any name; splits of different names share no person.
      index: from 0 on; `PICTURES_PER_PERSON` pictures in a row show one person.
      style: what it is drawn in; decides on occlusion and difficulty too.
      expressions: those that occur, at `FREQUENCIES`.
    """
    identity, rng, stream = _person(seed, split, index)
    expression = choose(rng, {name: FREQUENCIES[name] for name in expressions})
    units = sample_units(expression, rng, style.difficulty)
    face = Face(identity, units, _scene(identity, style, rng))
    return Sample(expression, index // PICTURES_PER_PERSON, Job(face, style, stream))


def _person(seed: int, split: str, index: int) -> tuple[Identity, np.random.Generator, tuple[int, ...]]:
    """Who is in a picture, what draws the rest of it, and the seed of its camera."""
    code = zlib.crc32(split.encode())
    identity = sample_identity(np.random.default_rng((seed, code, _IDENTITY, index // PICTURES_PER_PERSON)))
    return identity, np.random.default_rng((seed, code, _PICTURE, index)), (seed, code, _CAMERA, index)


def _scene(identity: Identity, style: Style, rng: np.random.Generator) -> Scene:
    scene = sample_scene(rng, style.occlusion)
    if scene.occlusion == "hair" and identity.hair == "bald":
        return dataclasses.replace(scene, occlusion="bar")
    return scene


def render_all(jobs: Sequence[Job], size: int, processes: int = 0) -> npt.NDArray[np.uint8]:
    """Draws all jobs.

    Args:
      jobs: what to draw.
      size: side of the pictures in pixels.
      processes: how many draw; 0: one per core that this process may use; 1: this process alone. The result is the
        same for every number.

    Returns:
      uint8[len(jobs), size, size, 3].
    """
    result = np.empty((len(jobs), size, size, 3), np.uint8)
    chunks = [jobs[start : start + _CHUNK] for start in range(0, len(jobs), _CHUNK)]
    processes = min(processes or len(os.sched_getaffinity(0)), len(chunks))
    if processes <= 1:
        for number, job in enumerate(jobs):
            result[number] = job.pixels(size)
        return result
    # Spawned: a fork of a process in which JAX runs threads can hang.
    with futures.ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        drawn = pool.map(_draw_chunk, chunks, [size] * len(chunks))
        for number, pixels in enumerate(drawn):
            result[number * _CHUNK : number * _CHUNK + len(pixels)] = pixels
    return result


def _draw_chunk(jobs: Sequence[Job], size: int) -> npt.NDArray[np.uint8]:
    return np.stack([job.pixels(size) for job in jobs])
