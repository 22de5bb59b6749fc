"""The demo's predictions and attributions, without the web page."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from PIL import Image, ImageDraw

from mpafer_jax.data import preprocess
from mpafer_jax.faces.detect import Face
from mpafer_jax.inference import NoFace, Predictor, Result
from mpafer_jax.inference.attribution import Explainer, Explanation
from mpafer_jax.inference.predictor import Cropper, checked
from mpafer_jax.runtime.errors import ImageError

_LONGEST_SIDE = 1024  # pixels of the returned photo


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """One face of an image, explained.

    Attributes:
      photo: the upright image, reduced if large, with a frame around a detected face.
      explanation: of the prediction, which holds its pixels.
      note: a remark for the user; may be empty.
    """

    photo: Image.Image
    explanation: Explanation
    note: str


class Answerer:
    """Predicts and explains image files. Thread-safe."""

    def __init__(self, predictor: Predictor, bank: str, faces: Cropper | None) -> None:
        """Encodes the bank's phrases; `bank` is a name or path. Without `faces` every image is taken for a face."""
        self.class_names = predictor.class_names
        self._predictor, self._faces = predictor, faces
        self._explainer = Explainer(predictor, bank)

    def warm_up(self) -> None:
        """Compiles in advance."""
        size = self._predictor.image_size
        self._explainer.explain([checked(self._result(Image.new("RGB", (size, size)), None))])

    def answer(self, file: Path, *, whole: bool) -> Answer:
        """Reads an image and explains its largest face, or the whole image as a face.

        Raises:
          ImageError: the file cannot be read.
        """
        try:
            image = preprocess.decode_rgb(preprocess.read_image_file(file))
        except OSError as error:
            raise ImageError(f"the file cannot be read ({error.strerror or error})") from error
        note, result = "", self._result(image, None if whole else self._faces)
        if isinstance(result, NoFace):
            note, result = "No face was found, so the whole image was taken for one.", self._result(image, None)
        prediction = checked(result)
        (explanation,) = self._explainer.explain([prediction])
        return Answer(_framed(image, prediction.face), explanation, note)

    def _result(self, image: Image.Image, faces: Cropper | None) -> Result:
        (result,) = self._predictor.stream([image], faces=faces, batch_size=1, keep_pixels=True)
        return result


def _framed(image: Image.Image, face: Face | None) -> Image.Image:
    scale = min(1.0, _LONGEST_SIDE / max(image.size))
    framed = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    if face is None:
        return framed
    draw, width = ImageDraw.Draw(framed), max(2, max(framed.size) // 200)
    left, top = face.left * scale, face.top * scale
    # A light frame in a dark one, visible on any image.
    for colour, inset in (((20, 20, 20), 0), ((255, 225, 80), width)):
        right, bottom = left + face.width * scale - inset, top + face.height * scale - inset
        draw.rectangle((left + inset, top + inset, right, bottom), outline=colour, width=width)
    return framed
