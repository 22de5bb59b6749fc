"""Result and failure types of prediction."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from mpafer_jax.data.preprocess import Pixels
from mpafer_jax.faces.detect import Face

Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """The input of a result.

    Attributes:
      file: the file, or a name for other inputs ("image 3", "camera:0").
      index: position among all inputs, from 0; each video frame counts.
      frame: number in its video, from 0; None for an image.
      seconds: time since the start of the video or camera stream; None for an image.
    """

    file: str
    index: int
    frame: int | None = None
    seconds: float | None = None

    def __str__(self) -> str:
        """The file and the frame; unprintable characters, which could move a cursor, are escaped."""
        name = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in self._utf8_file())
        return name if self.frame is None else f"{name} frame {self.frame}"

    def to_dict(self) -> dict[str, Any]:
        """Its attributes, ready for JSON; bytes of a name that are not UTF-8 are escaped as in `caf\\xe9.jpg`."""
        return {"file": self._utf8_file(), "index": self.index, "frame": self.frame, "seconds": self.seconds}

    def _utf8_file(self) -> str:
        return self.file.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """An input that cannot be read or predicted."""

    source: Source
    reason: str

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"

    def to_dict(self) -> dict[str, Any]:
        """Source, status 'error' and reason, ready for JSON."""
        return {**self.source.to_dict(), "status": "error", "reason": self.reason}


@dataclasses.dataclass(frozen=True, slots=True)
class NoFace:
    """An image in which no face was detected."""

    source: Source

    def __str__(self) -> str:
        return f"{self.source}: no face was found"

    def to_dict(self) -> dict[str, Any]:
        """Source and status 'no_face', ready for JSON."""
        return {**self.source.to_dict(), "status": "no_face"}


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The expression of one face.

    C classes; N patches in `grid` rows and columns, numbered row by row from the top left of `pixels`.

    Attributes:
      source: the input.
      face: the detected face; None if the whole image was used.
      class_names: C names.
      logits: float32[C].
      probabilities: their softmax, float32[C].
      patch_scores: cos(z^l_i, theta(t_d)) float32[N, C], of every patch with every class; None without a local score.
      top_patches: int32[C, k], the patches of the class's local score, best first; None likewise.
      grid: (rows, columns) of patches.
      pixels: uint8[S, S, 3], the model's input; None unless requested.
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

    def __str__(self) -> str:
        return f"{self.source}: {self.expression}, {100 * self.confidence:.1f}%"

    def __repr__(self) -> str:
        """Short: the arrays would fill a screen."""
        return f"<{type(self).__name__} of {self}>"

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
        """Its uncalibrated probability."""
        return float(self.probabilities[self.top_index])

    def to_dict(self) -> dict[str, Any]:
        """All but patch scores and pixels, ready for JSON."""

        def by_class(values: npt.NDArray[Any]) -> dict[str, Any]:
            return dict(zip(self.class_names, values.tolist(), strict=True))

        return {
            **self.source.to_dict(),
            "status": "ok",
            "face": None if self.face is None else self.face.to_dict(),
            "expression": self.expression,
            "confidence": self.confidence,
            "probabilities": by_class(self.probabilities),
            "logits": by_class(self.logits),
            "grid": list(self.grid),
            "top_patches": None if self.top_patches is None else by_class(self.top_patches),
        }


Result = Prediction | NoFace | Failure
