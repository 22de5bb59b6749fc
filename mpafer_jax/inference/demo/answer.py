"""The demo's predictions and attributions, without the web page."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mpafer_jax.data import preprocess
from mpafer_jax.inference import NoFace, Prediction, Predictor
from mpafer_jax.inference.attribution import Explainer, Explanation
from mpafer_jax.inference.predictor import Cropper, checked
from mpafer_jax.method.hard_prompts.bank import Bank
from mpafer_jax.runtime.errors import ImageError

BATCH_SIZES = (1, 8)  # one face is explained, all are predicted
MOST_FACES = 32  # shown of one photo
_SMALL, _LARGE = 320, 1024  # bounds of the longest side of the returned photo, in pixels
_MIN_CONFIDENCE, _MIN_LEAD = 0.5, 0.2  # of a prediction that is called sure [ours]


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """The faces of an image, the largest explained.

    Attributes:
      photo: the upright image, resized.
      scale: pixels of `photo` per pixel of the image, to which detected faces refer.
      predictions: of the faces from left to right, with their pixels; of the whole image if it was taken for one.
      chosen: index of the largest face.
      explanation: of its prediction.
      note: a remark for the user; may be empty.
    """

    photo: Image.Image
    scale: float
    predictions: Sequence[Prediction]
    chosen: int
    explanation: Explanation
    note: str


class Answerer:
    """Predicts and explains images. Thread-safe."""

    def __init__(self, predictor: Predictor, bank: Bank | str | None, faces: Cropper | None) -> None:
        """Encodes the bank's phrases.

        Args:
          predictor: best with `BATCH_SIZES`.
          bank: a `Bank`, its name or its path; None for no phrases.
          faces: finds all faces, or one more than `MOST_FACES` to be quick. None: every image is taken for a face.
        """
        self._predictor, self._faces = predictor, faces
        self._explainer = Explainer(predictor, bank)

    def warm_up(self) -> None:
        """Compiles in advance."""
        self._predictor.warm_up()
        self.explain(Image.new("RGB", (1, 1)))

    def answer(self, file: Path, *, whole: bool) -> Answer:
        """Reads an image and predicts its faces, or the whole image as a face; explains the largest.

        Raises:
          ImageError: the file cannot be read.
        """
        try:
            image = preprocess.decode_rgb(preprocess.read_image_file(file))
        except OSError as error:
            raise ImageError(f"the file cannot be read ({error.strerror or error})") from error
        note, predictions = "", self._predict(image, None if whole else self._faces)
        if not predictions:
            note = "No face was found, so the whole image was taken for one."
            predictions = self._predict(image, None)
        order = sorted(range(len(predictions)), key=lambda index: -_area(predictions[index]))
        if len(order) > MOST_FACES:
            note = f"More than {MOST_FACES} faces were found; the {MOST_FACES} largest are shown."
        shown = sorted(order[:MOST_FACES])
        (explanation,) = self._explainer.explain([predictions[order[0]]])
        scale = min(max(1.0, _SMALL / max(image.size)), _LARGE / max(image.size))
        photo = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
        return Answer(photo, scale, [predictions[i] for i in shown], shown.index(order[0]), explanation, note)

    def explain(self, face: bytes | Image.Image) -> Explanation:
        """Explains a face that fills its image, such as a prediction's `pixels`.

        Raises:
          ImageError: the bytes are no image.
        """
        (explanation,) = self._explainer.explain(self._predict(face, None))
        return explanation

    def _predict(self, image: bytes | Image.Image, faces: Cropper | None) -> list[Prediction]:
        """Of all faces; none if none was detected."""
        results = self._predictor.stream([image], faces=faces, keep_pixels=True, min_confidence=_MIN_CONFIDENCE)
        return [checked(result) for result in results if not isinstance(result, NoFace)]


def is_sure(prediction: Prediction) -> bool:
    """Whether it is certain, clearly ahead of the second class, and of an image not unlike the training images."""
    second, first = np.sort(prediction.probabilities)[-2:].tolist()
    return prediction.certain and not prediction.is_unlike and first - second >= _MIN_LEAD


def _area(prediction: Prediction) -> int:
    return prediction.face.width * prediction.face.height if prediction.face else 0
