"""Generates drawn faces in parallel, each from its own seed."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mpafer_jax.data.synthface.draw import render
from mpafer_jax.data.synthface.expressions import FREQUENCIES, sample_units
from mpafer_jax.data.synthface.face import Face, Identity, choose, sample_identity, sample_scene, suited
from mpafer_jax.data.synthface.styles import Style
from mpafer_jax.runtime import progress
from mpafer_jax.runtime import workers as processes_lib

# To be raised when the images of equal arguments change; datasets are then prepared again.
VERSION = "2"
IMAGES_PER_PERSON = 4
_IDENTITY, _EXPRESSION, _IMAGE, _CAMERA = range(4)  # streams of random numbers
_CHUNK = 32  # jobs a process takes at once


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One image to draw; `seed` is of the `rng` of `draw.render`."""

    face: Face
    style: Style
    seed: tuple[int, ...]

    def pixels(self, size: int) -> npt.NDArray[np.uint8]:
        """uint8[size, size, 3]."""
        return np.asarray(render(self.face, self.style, size, np.random.default_rng(self.seed)))


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A labelled job: name of the expression, number of the person in the split."""

    expression: str
    person: int
    job: Job


def expression_of(seed: int, split: str, index: int, expressions: Sequence[str] = tuple(FREQUENCIES)) -> str:
    """The expression of an image of `face_of`, without sampling the rest."""
    rng = np.random.default_rng((seed, zlib.crc32(split.encode()), _EXPRESSION, index))
    return choose(rng, {name: FREQUENCIES[name] for name in expressions})


def face_of(seed: int, split: str, index: int, style: Style, expressions: Sequence[str] = tuple(FREQUENCIES)) -> Sample:
    """Samples image `index` of a split, as a pure function of the arguments.

    Args:
      seed: of the dataset.
      split: any name; splits of different names share no person.
      index: `IMAGES_PER_PERSON` consecutive images show one person.
      style: also sets occlusion and difficulty.
      expressions: sampled by `FREQUENCIES`.
    """
    code, person = zlib.crc32(split.encode()), index // IMAGES_PER_PERSON
    identity = _identity(seed, code, person)
    expression = expression_of(seed, split, index, expressions)
    rng = np.random.default_rng((seed, code, _IMAGE, index))
    units, scene = sample_units(expression, rng, style.difficulty), sample_scene(rng, style.occlusion)
    return Sample(
        expression, person, Job(Face(identity, units, suited(scene, identity)), style, (seed, code, _CAMERA, index))
    )


@functools.lru_cache(maxsize=1)  # the images of a person follow one another
def _identity(seed: int, code: int, person: int) -> Identity:
    return sample_identity(np.random.default_rng((seed, code, _IDENTITY, person)))


def render_all(jobs: Sequence[Job], size: int, processes: int = 0) -> npt.NDArray[np.uint8]:
    """Draws all jobs: uint8[len(jobs), size, size, 3], the same for any number of processes.

    Args:
      processes: 0: one per usable core; 1: this process alone.
    """
    result = np.empty((len(jobs), size, size, 3), np.uint8)
    chunks = [jobs[start : start + _CHUNK] for start in range(0, len(jobs), _CHUNK)]
    processes = min(processes or processes_lib.usable_cores(), len(chunks))
    if processes <= 1:
        for number, job in enumerate(progress.track(jobs, "drawing faces", len(jobs))):
            result[number] = job.pixels(size)
        return result
    with processes_lib.pool(processes) as pool:
        drawn = progress.track(
            pool.map(_draw_chunk, chunks, [size] * len(chunks)), "drawing faces", len(jobs), size=len
        )
        for number, pixels in enumerate(drawn):
            result[number * _CHUNK : number * _CHUNK + len(pixels)] = pixels
    return result


def _draw_chunk(jobs: Sequence[Job], size: int) -> npt.NDArray[np.uint8]:
    return np.stack([job.pixels(size) for job in jobs])
