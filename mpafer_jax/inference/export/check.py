"""Compares an exported form with the predictor: numbers and speed."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mpafer_jax.data import preprocess
from mpafer_jax.data.preprocess import Pixels
from mpafer_jax.data.synthface.draw import MAX_SIZE
from mpafer_jax.data.synthface.generate import face_of
from mpafer_jax.data.synthface.styles import STYLES
from mpafer_jax.runtime.errors import ExportError
from mpafer_jax.runtime.finite import not_finite

# Largest difference of a probability; compilers order sums differently.
TOLERANCES = {"float32": 1e-3, "bfloat16": 5e-2}
_REPEATS = 5

Run = Callable[[Pixels], Mapping[str, npt.NDArray[Any]]]


@dataclasses.dataclass(frozen=True)
class Check:
    """Comparison of an exported form with the predictor.

    Attributes:
      images: number of drawn faces compared.
      difference: the largest of a probability; None if the form is bit-identical.
      milliseconds: per image, in a batch of `images`; None if the form is not a program.
      predictor_milliseconds: the same of the predictor.
      device: on which both ran.
    """

    images: int
    difference: float | None = None
    milliseconds: float | None = None
    predictor_milliseconds: float | None = None
    device: str = ""

    def sentence(self) -> str:
        """The comparison in words."""
        if self.difference is None:
            return "Read back, they were the checkpoint's, bit for bit."
        text = f"Read back, its probabilities of {self.images} drawn faces differed by at most {self.difference:.1e}."
        if self.milliseconds is not None and self.predictor_milliseconds is not None:
            text += (
                f" It took {self.milliseconds:.1f} ms an image in a batch of {self.images}, the predictor "
                f"{self.predictor_milliseconds:.1f} ms ({self.device})."
            )
        return text


def drawn_faces(number: int, size: int) -> Pixels:
    """Drawn faces uint8[number, size, size, 3]; deterministic."""
    faces = [face_of(0, "export", index, STYLES["colour"]).job.pixels(min(size, MAX_SIZE)) for index in range(number)]
    return np.stack([np.asarray(preprocess.resize(Image.fromarray(face), size)) for face in faces])


def compare(exported: Run, predictor: Run, pixels: Pixels, *, dtype: str, device: str) -> Check:
    """Runs both on the same images.

    Args:
      exported: the exported form, read back.
      predictor: its source.
      pixels: uint8[B, S, S, 3].
      dtype: in which the towers compute, "float32" or "bfloat16".
      device: the device's name.

    Raises:
      ExportError: a probability differs by more than `TOLERANCES`, or is not finite.
    """
    expected, actual = predictor(pixels)["probabilities"], exported(pixels)["probabilities"]
    if broken := not_finite({"the predictor's": expected, "the exported program's": actual}):
        raise ExportError(
            f"probabilities are NaN or infinite: {', '.join(broken)}; see whether the checkpoint is of a "
            "run that went well"
        )
    difference = float(np.max(np.abs(expected.astype(np.float64) - actual)))
    if difference > TOLERANCES[dtype]:
        raise ExportError(
            f"the exported program's probabilities differ by {difference:.2e} from the predictor's, more than "
            f"{TOLERANCES[dtype]:.0e}; please report it with the versions of jax and of what was exported to"
        )
    return Check(len(pixels), difference, _milliseconds(exported, pixels), _milliseconds(predictor, pixels), device)


def _milliseconds(run: Run, pixels: Pixels) -> float:
    """Per image: the fastest of a few repetitions, since other load only slows them."""
    seconds: list[float] = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        run(pixels)
        seconds.append(time.perf_counter() - started)
    return 1000 * min(seconds) / len(pixels)
