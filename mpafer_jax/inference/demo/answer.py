"""The demo's predictions and attributions, without the web page."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from PIL import Image, ImageDraw

from mpafer_jax.data import preprocess
from mpafer_jax.data.preprocess import Pixels
from mpafer_jax.evaluation import overlay
from mpafer_jax.inference import NoFace, Prediction, Predictor
from mpafer_jax.inference.attribution import Explainer, Explanation
from mpafer_jax.inference.faces import Face
from mpafer_jax.inference.predictor import Cropper, checked
from mpafer_jax.runtime.errors import ImageError

_PHRASES = 8
_LONGEST_SIDE = 1024  # pixels of the returned photo


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """One face of an image, with its attribution.

    Attributes:
      photo: the upright image, reduced if large, with a frame around a detected face.
      face: in the original image; None if the whole image was used.
      seen: the model's input.
      probabilities: by class.
      heat_maps: by class, by falling probability; empty without a local score.
      phrases: nearest descriptions as (text, class, region, score).
      note: a remark for the user; may be empty.
    """

    photo: Image.Image
    face: Face | None
    seen: Image.Image
    probabilities: dict[str, float]
    heat_maps: dict[str, Image.Image]
    phrases: tuple[tuple[str, str, str, float], ...]
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
        self._explainer.explain([self._whole(Image.new("RGB", (size, size)))])

    def answer(self, file: Path, *, whole: bool) -> Answer:
        """Reads an image and explains its largest face, or the whole image as a face.

        Raises:
          ImageError: the file cannot be read.
        """
        try:
            image = preprocess.decode_rgb(preprocess.read_image_file(file))
        except OSError as error:
            raise ImageError(f"the file cannot be read ({error.strerror or error})") from error
        note = ""
        prediction = self._whole(image) if whole or self._faces is None else self._largest_face(image, self._faces)
        if prediction is None:
            note = "No face was found, so the whole image was taken for one."
            prediction = self._whole(image)
        (explanation,) = self._explainer.explain([prediction])
        return Answer(
            photo=_framed(image, prediction.face),
            face=prediction.face,
            seen=Image.fromarray(_pixels(prediction)).resize((overlay.TILE, overlay.TILE), Image.Resampling.BICUBIC),
            probabilities={n: float(p) for n, p in zip(prediction.class_names, prediction.probabilities, strict=True)},
            heat_maps=_heat_maps(explanation),
            phrases=tuple(
                (phrase.text, phrase.class_name, phrase.granularity, score)
                for phrase, score in explanation.phrases[:_PHRASES]
            ),
            note=note,
        )

    def _whole(self, image: Image.Image) -> Prediction:
        (result,) = self._predictor.stream([image], batch_size=1, keep_pixels=True)
        return checked(result)

    def _largest_face(self, image: Image.Image, faces: Cropper) -> Prediction | None:
        (result,) = self._predictor.stream([image], faces=faces, batch_size=1, keep_pixels=True)
        return None if isinstance(result, NoFace) else checked(result)


def _pixels(prediction: Prediction) -> Pixels:
    if prediction.pixels is None:
        raise ValueError("the prediction was made without keep_pixels")
    return prediction.pixels


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


def _heat_maps(explanation: Explanation) -> dict[str, Image.Image]:
    prediction, maps = explanation.prediction, explanation.contrast_maps
    if maps is None or prediction.top_patches is None:
        return {}
    heats = overlay.scaled(maps)
    drawn: dict[str, Image.Image] = {}
    for index in sorted(range(len(heats)), key=lambda index: -prediction.probabilities[index]):
        image = overlay.heat_overlay(_pixels(prediction), heats[index])
        overlay.outline_patches(image, prediction.top_patches[index], prediction.grid)
        drawn[prediction.class_names[index]] = image
    return drawn
