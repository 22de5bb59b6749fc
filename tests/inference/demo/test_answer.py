"""Which faces of a photo are shown and explained, and what is called sure; without the page."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from mpafer_jax.artifacts import shipped
from mpafer_jax.faces.detect import Face
from mpafer_jax.faces.finder import FaceCrop
from mpafer_jax.inference.demo import page
from mpafer_jax.inference.demo.answer import MOST_FACES, Answerer, is_sure


def squares(image, sides):
    """Square "faces" of a photo side by side, each of a grey level of its own."""
    lefts = np.cumsum([0, *sides[:-1]]).tolist()
    return [
        FaceCrop(Face(left, 0, side, side, (), 1.0), Image.new("RGB", (side, side), (number,) * 3))
        for number, (left, side) in enumerate(zip(lefts, sides, strict=True))
    ]


@pytest.mark.parametrize(
    ("sides", "shown", "chosen"),
    [
        ([4, 9, 9, 2], [0, 1, 2, 3], 1),
        ([5, *range(60, 60 + MOST_FACES), 3], [*range(1, MOST_FACES + 1)], MOST_FACES - 1),
        ([*range(60 + MOST_FACES, 60, -1), 70], [*range(MOST_FACES - 1), MOST_FACES], 0),
    ],
)
def test_the_largest_faces_are_shown_from_left_to_right(predictor, tmp_path, sides, shown, chosen):
    photo = tmp_path / "photo.png"
    Image.new("RGB", (3000, 200)).save(photo)
    answer = Answerer(predictor, "expressions", lambda image: squares(image, sides)).answer(photo, whole=False)
    assert [int(prediction.pixels[0, 0, 0]) for prediction in answer.predictions] == shown
    assert answer.chosen == chosen
    assert answer.explanation.prediction is answer.predictions[chosen]
    assert answer.photo.width == 1024
    assert answer.scale == pytest.approx(1024 / 3000)
    assert ("More than 32 faces were found; the 32 largest" in answer.note) == (len(sides) > MOST_FACES)


def test_a_small_photo_is_enlarged_and_what_the_model_saw_explains_it_again(predictor, tmp_path, faces):
    photo = tmp_path / "photo.png"
    Image.open(faces[0]).convert("RGB").resize((40, 20)).save(photo)
    answerer = Answerer(predictor, "expressions", None)
    answer = answerer.answer(photo, whole=False)
    assert answer.photo.size == (320, 160)
    again = answerer.explain(Image.fromarray(answer.predictions[0].pixels))
    np.testing.assert_allclose(again.rollout, answer.explanation.rollout, rtol=1e-5)
    np.testing.assert_array_equal(again.prediction.logits, answer.predictions[0].logits)


@pytest.mark.parametrize(
    ("probabilities", "sure"),
    [
        ((0.41, 0.38, 0.21), False),
        ((0.45, 0.25, 0.3), False),  # less than half
        ((0.19, 0.2, 0.61), True),
        ((0.55, 0.4, 0.05), False),  # less than 20 points more
        ((0.5, 0.25, 0.25), True),
    ],
)
def test_close_calls_are_not_sure(predictor, faces, probabilities, sure):
    prediction = Answerer(predictor, "expressions", None).answer(faces[0], whole=True).predictions[0]
    logits = np.log(np.array(probabilities, np.float32))
    prediction = dataclasses.replace(prediction, logits=logits, probabilities=np.exp(logits), unlike=0.9)
    assert is_sure(prediction) == sure
    assert not is_sure(dataclasses.replace(prediction, unlike=1.1))


def test_the_page_says_how_sure_the_model_is(predictor, faces):
    explained = Answerer(predictor, "expressions", None).answer(faces[0], whole=True).explanation

    def html(**fields):
        prediction = dataclasses.replace(explained.prediction, **fields)
        return " ".join(page.explanation(dataclasses.replace(explained, prediction=prediction), 3).split())

    measured = shipped.PATCH_MAPS[shipped.DEFAULT]
    warned, unknown = (" ".join(page.explanation(explained, 0, said).split()) for said in (measured, ""))
    assert "Do not rely on these maps. Of 500 photographs the patch maps were no better than a random order" in warned
    assert "Do not rely" not in unknown
    probabilities = np.array([0.03, 0.41, 0.38, 0.1, 0.08], np.float32)
    close = html(probabilities=probabilities, logits=np.log(probabilities), unlike=None, temperature=None)
    assert "Face 3, not sure: happiness 41%, neutral 38%</h2>" in close
    assert "less than 20 percentage points more than the second" in close
    assert "the model's own" in close
    assert "unlike" not in close
    probabilities = np.array([0.03, 0.93, 0.02, 0.01, 0.01], np.float32)
    sure = html(probabilities=probabilities, logits=np.log(probabilities), unlike=0.8, temperature=1.2)
    assert "Face 3: happiness, 93%</h2>" in sure
    assert "calibrated on validation images" in sure
    assert "percentage points" not in sure
    unlike = html(probabilities=probabilities, logits=np.log(probabilities), unlike=1.25)
    assert "Face 3, not sure: happiness 93%, anger 3%</h2>" in unlike
    assert "unlike the training images" in unlike
    assert "1.25 times" in unlike
    assert "percentage points" not in unlike


def test_without_a_bank_the_page_shows_no_phrases(predictor, faces):
    explained = Answerer(predictor, None, None).answer(faces[0], whole=True).explanation
    assert explained.phrases == ()
    html = page.explanation(explained, 0)
    assert "Heat map of " in html
    assert "descriptions" not in html
