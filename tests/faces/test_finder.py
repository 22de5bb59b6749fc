"""Faces are found, chosen, turned upright and cut out: drawn ones, which the detector takes for real."""

import itertools
import math
from concurrent import futures

import numpy as np
import pytest
from PIL import Image

from mpafer_jax.data.synthface import generate
from mpafer_jax.data.synthface.styles import STYLES
from mpafer_jax.faces import alignment, detect
from mpafer_jax.faces.detect import Detector, Face
from mpafer_jax.faces.finder import FaceFinder
from mpafer_jax.runtime.errors import InputError
from tests.faces import crossing

GREY = (128, 128, 128)


@pytest.fixture(scope="module")
def portrait() -> Image.Image:
    """A drawn face of 224 pixels that looks straight ahead and hides nothing."""
    sample = generate.face_of(7, "photos", 0, STYLES["colour"])
    return Image.fromarray(sample.job.pixels(224))


@pytest.fixture(scope="module")
def couple(portrait) -> Image.Image:
    """A large face on the right and a small one on the left."""
    image = Image.new("RGB", (640, 360), (120, 130, 140))
    image.paste(portrait, (380, 60))
    image.paste(portrait.resize((150, 150)), (60, 120))
    return image


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector()


def test_all_faces_come_from_left_to_right_and_the_largest_alone(couple):
    left, right = FaceFinder(which="all").find(couple)
    assert inside(left, (60, 120, 210, 270))
    assert inside(right, (380, 60, 604, 284))
    assert FaceFinder().find(couple) == FaceFinder(which=1).find(couple) == [right]
    assert FaceFinder(which=2).find(couple) == FaceFinder(which=9).find(couple) == [left, right]
    assert min(left.score, right.score) > 0.6
    # Eyes above nose above mouth, left of right.
    (x0, y0), (x1, y1), (_, y2), (x3, y3), (x4, y4) = right.landmarks
    assert x0 < x1
    assert x3 < x4
    assert max(y0, y1) < y2 < min(y3, y4)
    assert abs(right.tilt) < 5


def test_a_half_hidden_face_does_not_get_the_landmarks_of_the_one_before_it(detector):
    frame = list(itertools.islice(crossing.frames(rate=10.0, style="colour"), 26))[-1]
    behind, front = detector(Image.fromarray(frame.pixels))
    for face, person in ((behind, frame.people[1]), (front, frame.people[0])):
        x, y = np.mean(face.landmarks, axis=0)
        assert math.hypot(x - person.x, y - person.y) < 0.2 * person.size


@pytest.mark.parametrize("factor", [0.25, 3.0])
def test_boxes_and_landmarks_are_in_the_pixels_of_the_image(couple, detector, factor):
    """Of thumbnails, which are enlarged, and of images and faces larger than the network sees."""
    small = detector(couple)[-1]
    other = detector(couple.resize((round(640 * factor), round(360 * factor)), Image.Resampling.BICUBIC))[-1]
    box = [getattr(other, name) / factor for name in ("left", "top", "width", "height")]
    assert box == pytest.approx([small.left, small.top, small.width, small.height], abs=20)
    np.testing.assert_allclose(np.array(other.landmarks) / factor, small.landmarks, atol=6)


def test_no_face_is_an_empty_list():
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3)).astype(np.uint8)
    assert FaceFinder(which="all")(Image.fromarray(noise)) == []
    assert FaceFinder()(Image.new("RGB", (1, 1))) == []
    for height in (1, 20, 40):  # OpenCV reports faces in narrow images
        assert FaceFinder()(Image.new("RGB", (2000, height), GREY)) == []


def test_a_face_that_fills_its_image_is_found(detector):
    sample = generate.face_of(7, "photos", 24, STYLES["colour"])
    tight = (
        Image.fromarray(sample.job.pixels(224)).crop((60, 70, 170, 190)).resize((48, 48)).convert("L").convert("RGB")
    )
    (face,) = detector(tight.convert("RGB"))
    (left_eye, right_eye, nose, _, _) = face.landmarks
    assert 0 < left_eye[0] < nose[0] < right_eye[0] < 48
    assert 0 < left_eye[1] < nose[1] < 48


@pytest.mark.parametrize("degrees", [10, 30, -30, 90])
def test_a_turned_face_is_found_with_its_tilt_and_cropped_upright(portrait, degrees):
    finder = FaceFinder()
    (straight,) = finder(portrait)
    turned = portrait.rotate(-degrees, Image.Resampling.BICUBIC, expand=True, fillcolor=GREY)  # clockwise
    (found,) = finder(turned)
    difference = (found.face.tilt - straight.face.tilt - degrees + 180) % 360 - 180
    assert abs(difference) < 5
    assert abs(finder.find(found.image)[0].tilt) < 5
    upright, expected = (np.asarray(crop.image.resize((64, 64)).convert("L"), float) for crop in (found, straight))
    inner = (slice(12, 52), slice(12, 52))  # beyond it lies what surrounds the portrait
    assert np.corrcoef(upright[inner].ravel(), expected[inner].ravel())[0, 1] > 0.8


@pytest.mark.parametrize(("turn", "back"), [(Image.Transpose.ROTATE_90, 90), (Image.Transpose.ROTATE_270, -90)])
def test_the_box_of_a_face_on_its_side_lies_on_its_side(portrait, detector, turn, back):
    image = Image.new("RGB", (640, 480), GREY)
    image.paste(portrait, (300, 120))
    (straight,), (turned,) = detector._look(image, 640), detector._look(image.transpose(turn), 640, back)
    assert straight[3] > 1.15 * straight[2]
    assert turned[2:4] == pytest.approx(straight[[3, 2]], rel=0.02)


def test_the_box_of_a_tilted_face_is_that_around_its_ellipse(detector, monkeypatch):
    seen = np.array([[30.0, 50.0, 40.0, 20.0, *[0.0] * 10, 0.9]])  # in the turned image
    monkeypatch.setattr(detector, "_see", lambda pixels: seen.copy())
    (row,) = detector._look(Image.new("RGB", (100, 100)), 100, 30)
    angles = np.linspace(0, 2 * np.pi, 10_000)
    points = np.stack([20 * np.cos(angles), 10 * np.sin(angles)])
    back = np.deg2rad(-30)
    turned = np.array([[np.cos(back), -np.sin(back)], [np.sin(back), np.cos(back)]]) @ points
    assert row[2:4] == pytest.approx(np.ptp(turned, axis=1), rel=1e-3)


def test_crops_have_the_resolution_of_the_image_and_may_stay_tilted(portrait):
    turned = portrait.rotate(-20, Image.Resampling.BICUBIC, fillcolor=GREY)
    (upright,), (tilted,), (wide,) = (
        FaceFinder(**options)(turned) for options in ({}, {"align": False}, {"margin": 0.25})
    )
    # The eyes are 0.26 of the side apart.
    (x0, y0), (x1, y1) = upright.face.landmarks[:2]
    assert upright.image.width == pytest.approx(np.hypot(x1 - x0, y1 - y0) / 0.26, rel=0.15)
    assert upright.image.size == tilted.image.size
    assert wide.image.width == pytest.approx(1.5 * upright.image.width, abs=1)
    assert FaceFinder().find(tilted.image)[0].tilt == pytest.approx(20, abs=6)
    assert FaceFinder().find(upright.image)[0].tilt == pytest.approx(0, abs=6)


def test_threads_find_the_same(couple):
    finder = FaceFinder(which="all")
    with futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(finder.find, [couple] * 8))
    assert all(faces == found[0] for faces in found)


def test_what_is_missing_or_damaged_is_named(monkeypatch, tmp_path):
    with pytest.raises(InputError, match=r"face detector .*none\.onnx cannot be read \(No such file"):
        Detector(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(InputError, match=r"OpenCV [\d.]+ cannot run .*text\.onnx as YuNet"):
        Detector(tmp_path / "text.onnx")
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(detect.YUNET.read_bytes()[:-1])
    monkeypatch.setattr(detect, "YUNET", damaged)
    with pytest.raises(InputError, match=r"damaged\.onnx is damaged; install the package again"):
        Detector(damaged)
    with pytest.raises(ValueError, match="a margin is a fraction"):
        FaceFinder(margin=-0.5)


@pytest.mark.parametrize("which", ["foo", "", 0, -1])
def test_which_faces_is_checked(which):
    with pytest.raises(ValueError, match=f"which is {which!r}, expected 'largest', 'all', or a number of faces from 1"):
        FaceFinder(which=which)


def test_another_copy_of_the_network_finds_the_same(couple, detector, tmp_path):
    copy = tmp_path / "caf\xe9.onnx"
    copy.write_bytes(detect.YUNET.read_bytes())
    assert Detector(copy)(couple) == detector(couple)


def test_a_face_says_its_numbers(couple, detector):
    face = detector(couple)[0]
    numbers = face.to_dict()
    assert [numbers[name] for name in ("left", "top", "width", "height")] == [
        *(face.left, face.top, face.width, face.height)
    ]
    assert numbers["tilt"] == round(alignment.tilt(face.landmarks), 1)
    assert np.array(numbers["landmarks"]).shape == (5, 2)


def inside(face: Face, box: tuple[int, int, int, int]) -> bool:
    """Whether a face lies in a rectangle, and fills a good part of it."""
    left, top, right, bottom = box
    area = face.width * face.height / ((right - left) * (bottom - top))
    center = (face.left + face.width / 2, face.top + face.height / 2)
    return left < center[0] < right and top < center[1] < bottom and 0.25 < area < 1
