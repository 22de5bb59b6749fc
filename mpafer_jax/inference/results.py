"""Result and failure types of prediction."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mpafer_jax.data.preprocess import Pixels
from mpafer_jax.faces.detect import Face
from mpafer_jax.runtime import files

Floats = npt.NDArray[np.float32]
UNCERTAIN = "uncertain"  # status below `min_confidence`


def check_min_confidence(value: float) -> float:
    """Returns a fraction of 1; raises ValueError for another number."""
    if not 0 <= value <= 1:
        raise ValueError(f"min_confidence is a fraction from 0 to 1, found {value:g}")
    return value


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """The input of a result.

    Attributes:
      file: the file, or a name for other inputs ("image 3", "camera:0").
      index: position among all inputs, from 0; each video frame counts.
      frame: number in its video, from 0; None for an image.
      seconds: time since the start of the video or camera stream; None for an image.
      shot: number of the shot in its video, from 0 (`shots.Shots`); None for an image or a camera.
    """

    file: str
    index: int
    frame: int | None = None
    seconds: float | None = None
    shot: int | None = None

    def __str__(self) -> str:
        """The file and the frame; unprintable characters, which could move a cursor, are escaped."""
        name = "".join(
            c if c.isprintable() else c.encode("unicode_escape").decode() for c in files.utf8_name(self.file)
        )
        return name if self.frame is None else f"{name} frame {self.frame}"

    def to_dict(self) -> dict[str, Any]:
        """Its attributes, ready for JSON; bytes of a name that are not UTF-8 are escaped as in `caf\\xe9.jpg`.

        `shot` is there only for frames that have one.
        """
        values = {"file": files.utf8_name(self.file), "index": self.index, "frame": self.frame, "seconds": self.seconds}
        return values if self.shot is None else {**values, "shot": self.shot}


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """An input that cannot be read or predicted."""

    source: Source
    reason: str
    status: ClassVar = "error"

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"

    def to_dict(self) -> dict[str, Any]:
        """Source, status 'error' and reason, ready for JSON."""
        return {**self.source.to_dict(), "status": self.status, "reason": self.reason}


@dataclasses.dataclass(frozen=True, slots=True)
class NoFace:
    """An image in which no face was detected."""

    source: Source
    status: ClassVar = "no_face"

    def __str__(self) -> str:
        return f"{self.source}: no face was found"

    def to_dict(self) -> dict[str, Any]:
        """Source and status 'no_face', ready for JSON."""
        return {**self.source.to_dict(), "status": self.status}


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The expression of one face.

    C classes; N patches in `grid` rows and columns, numbered row by row from the top left of `pixels`.

    Attributes:
      source: the input.
      face: the detected face; None if the whole image was used.
      class_names: C names.
      logits: float32[C].
      probabilities: float32[C], their softmax; with a temperature T softmax(logits / T).
      patch_scores: cos(z^l_i, theta(t_d)) float32[N, C], of every patch with every class; None without a local score.
      top_patches: int32[C, k], the patches of the class's local score, best first; None likewise.
      grid: (rows, columns) of patches.
      pixels: uint8[S, S, 3], the model's input; None unless requested.
      temperature: T of calibrated probabilities; None: they are uncalibrated.
      min_confidence: the lowest confidence of a certain prediction.
      unlike: distance of the image from the training images (`method.outliers`), divided by the limit that 99% of the
        validation images keep: above 1 it is unlike them. None if the model has no such limit.
      track: number of the face's track in its video, from 0; None without detection, and for images.
      smooth_probabilities: float32[C], see `temporal.smooth_results`; None unless requested.
      covered: side of the square of `pixels`, from the top left, that the patches cover; None: all of it.
    """

    source: Source
    face: Face | None
    class_names: tuple[str, ...]
    logits: Floats
    probabilities: Floats
    patch_scores: Floats | None
    top_patches: npt.NDArray[np.int32] | None
    grid: tuple[int, int]
    pixels: Pixels | None = None
    temperature: float | None = None
    min_confidence: float = 0.0
    unlike: float | None = None
    track: int | None = None
    smooth_probabilities: Floats | None = None
    covered: int | None = None

    def __str__(self) -> str:
        expression, confidence = self.answer
        answer = expression if self.certain else f"{UNCERTAIN}, perhaps {expression}"
        calibrated = "" if self.temperature is None else " (calibrated)"
        return f"{self.source}: {answer}, {100 * confidence:.1f}%{calibrated}"

    def __repr__(self) -> str:
        """Short: the arrays would fill a screen."""
        return f"<{type(self).__name__} of {self}>"

    @property
    def seen(self) -> Pixels | None:
        """The part of `pixels` that the patches cover, over which maps are drawn."""
        return None if self.pixels is None else self.pixels[: self.covered, : self.covered]

    @property
    def top_index(self) -> int:
        """Index of the most probable class; the first of ties."""
        return int(np.argmax(self.logits))

    @property
    def expression(self) -> str:
        """The most probable class."""
        return self.class_names[self.top_index]

    @property
    def confidence(self) -> float:
        """Its probability; calibrated if there is a temperature."""
        return float(self.probabilities[self.top_index])

    @property
    def certain(self) -> bool:
        """Whether the confidence, the smooth one if there is one, is at least `min_confidence`."""
        return self.answer[1] >= self.min_confidence

    @property
    def is_unlike(self) -> bool:
        """Whether the image is known to be unlike the training images."""
        return self.unlike is not None and self.unlike > 1

    @property
    def status(self) -> str:
        """'ok', or 'uncertain' below `min_confidence`."""
        return "ok" if self.certain else UNCERTAIN

    @property
    def smooth(self) -> tuple[str, float] | None:
        """The most probable class by the smooth probabilities, and its one."""
        if self.smooth_probabilities is None:
            return None
        best = int(np.argmax(self.smooth_probabilities))
        return self.class_names[best], float(self.smooth_probabilities[best])

    @property
    def answer(self) -> tuple[str, float]:
        """The class and the confidence that decide: the smooth ones if there are any."""
        return self.smooth or (self.expression, self.confidence)

    def to_dict(self) -> dict[str, Any]:
        """All but patch scores and pixels, ready for JSON."""

        def by_class(values: npt.NDArray[Any]) -> dict[str, Any]:
            return dict(zip(self.class_names, values.tolist(), strict=True))

        return {
            **self.source.to_dict(),
            "status": self.status,
            "face": None if self.face is None else self.face.to_dict(),
            "track": self.track,
            "expression": self.expression,
            "confidence": self.confidence,
            "temperature": self.temperature,
            "unlike": self.unlike,
            "probabilities": by_class(self.probabilities),
            "logits": by_class(self.logits),
            "grid": list(self.grid),
            "top_patches": None if self.top_patches is None else by_class(self.top_patches),
        }


Result = Prediction | NoFace | Failure
