"""Many images: each from its own seed, so that it does not matter which process draws it, or in which order."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mpafer_jax.data.synthface.draw import render
from mpafer_jax.data.synthface.expressions import FREQUENCIES, sample_units
from mpafer_jax.data.synthface.face import Face, choose, sample_identity, sample_scene, suited
from mpafer_jax.data.synthface.styles import Style
from mpafer_jax.runtime import progress
from mpafer_jax.runtime import workers as processes_lib

# Counts changes of what is drawn for equal arguments; prepared datasets of another version are not opened.
VERSION = "2"
IMAGES_PER_PERSON = 4
_IDENTITY, _EXPRESSION, _IMAGE, _CAMERA = range(4)  # streams of random numbers
_CHUNK = 32  # jobs a process takes at once


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One image to draw; `seed` is for what the face leaves open (see `draw.render`)."""

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


def expression_of(seed: int, split: str, index: int, expressions: Sequence[str] = tuple(FREQUENCIES)) -> str:
    """The expression that `face_of` gives to an image, without the rest of it."""
    rng = np.random.default_rng((seed, zlib.crc32(split.encode()), _EXPRESSION, index))
    return choose(rng, {name: FREQUENCIES[name] for name in expressions})


def face_of(seed: int, split: str, index: int, style: Style, expressions: Sequence[str] = tuple(FREQUENCIES)) -> Sample:
    """The image with a number in a split of a dataset; equal arguments give equal images.

    Args:
      seed: of the dataset.
      split: any name; splits of different names share no person.
      index: from 0 on; `IMAGES_PER_PERSON` images in a row show one person.
      style: what it is drawn in; decides on occlusion and difficulty too.
      expressions: those that occur, at `FREQUENCIES`.
    """
    code, person = zlib.crc32(split.encode()), index // IMAGES_PER_PERSON
    identity = sample_identity(np.random.default_rng((seed, code, _IDENTITY, person)))
    expression = expression_of(seed, split, index, expressions)
    rng = np.random.default_rng((seed, code, _IMAGE, index))
    units, scene = sample_units(expression, rng, style.difficulty), sample_scene(rng, style.occlusion)
    return Sample(
        expression, person, Job(Face(identity, units, suited(scene, identity)), style, (seed, code, _CAMERA, index))
    )


def render_all(jobs: Sequence[Job], size: int, processes: int = 0) -> npt.NDArray[np.uint8]:
    """Draws all jobs.

    Args:
      jobs: what to draw.
      size: side of the images in pixels.
      processes: how many draw; 0: one per core that this process may use; 1: this process alone. The result is the
        same for every number.

    Returns:
      uint8[len(jobs), size, size, 3].
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
