"""Result and failure types of prediction."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from mpafer_jax.data.preprocess import Pixels
from mpafer_jax.inference.faces import Face

Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """What a result is about.

    Attributes:
      file: the file, or a name for what is none ("image 3", "camera:0").
      index: position among all inputs, from 0; the frames of a video count one by one.
      frame: number of the frame in its video, from 0; None for an image.
      seconds: when it is shown, from the start of its video or of the camera's run; None for an image.
    """

    file: str
    index: int
    frame: int | None = None
    seconds: float | None = None

    def __str__(self) -> str:
        """The file, and in a video which frame; characters that would move a cursor are escaped."""
        name = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in self._utf8_file())
        return name if self.frame is None else f"{name} frame {self.frame}"

    def to_dict(self) -> dict[str, Any]:
        """Its attributes, ready for JSON and UTF-8; bytes of a name that are not UTF-8 as in `caf\\xe9.jpg`."""
        return {"file": self._utf8_file(), "index": self.index, "frame": self.frame, "seconds": self.seconds}

    def _utf8_file(self) -> str:
        return self.file.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """An input that is no image, or cannot be read."""

    source: Source
    reason: str

    def __str__(self) -> str:
        """The source and the reason."""
        return f"{self.source}: {self.reason}"

    def to_dict(self) -> dict[str, Any]:
        """The source, status 'error' and the reason, ready for JSON."""
        return {**self.source.to_dict(), "status": "error", "reason": self.reason}


@dataclasses.dataclass(frozen=True, slots=True)
class NoFace:
    """An image in which a face was looked for and none was found."""

    source: Source

    def __str__(self) -> str:
        """The source, and that no face was found."""
        return f"{self.source}: no face was found"

    def to_dict(self) -> dict[str, Any]:
        """The source and status 'no_face', ready for JSON."""
        return {**self.source.to_dict(), "status": "no_face"}


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The expression of one face.

    C classes; N patches, `grid` rows and columns of them, numbered row by row from the top left of `pixels`.

    Attributes:
      source: what it is about.
      face: where in the image, where a face was looked for; None if the whole image was taken for one.
      class_names: C names.
      logits: float32[C].
      probabilities: their softmax, float32[C].
      patch_scores: cos(z^l_i, theta(t_d)) float32[N, C], of every patch with every class; None for a model without
        local score.
      top_patches: int32[C, k], the patches whose scores make the class's local score, best first; None likewise.
      grid: (rows, columns) of patches.
      pixels: uint8[S, S, 3], what the model saw; None unless asked for.
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
        """The source, the expression and its probability."""
        return f"{self.source}: {self.expression}, {100 * self.confidence:.1f}%"

    def __repr__(self) -> str:
        """`str` in brackets: the arrays would fill a screen for each image."""
        return f"<{type(self).__name__} of {self}>"

    @property
    def top_index(self) -> int:
        """Position of the most probable class; of equals, the first."""
        return int(np.argmax(self.logits))

    @property
    def expression(self) -> str:
        """The most probable class."""
        return self.class_names[self.top_index]

    @property
    def confidence(self) -> float:
        """The model's probability of it, uncalibrated."""
        return float(self.probabilities[self.top_index])

    def to_dict(self) -> dict[str, Any]:
        """Everything but patch scores and pixels, ready for JSON."""

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
