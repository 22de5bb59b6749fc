"""Faces are found, chosen, turned upright and cut out: drawn ones, which the cascades take for real, and real ones."""

import types
from concurrent import futures

import numpy as np
import pytest
from PIL import Image

from mpafer_jax.data.synthface import generate
from mpafer_jax.data.synthface.styles import STYLES
from mpafer_jax.inference import faces as faces_lib
from mpafer_jax.inference.faces import Face, FaceFinder, crop
from tests import needs

cv2 = needs.module("cv2")


@pytest.fixture(scope="module")
def portrait() -> Image.Image:
    """A drawn face of 200 pixels that looks straight ahead and hides nothing."""
    sample = generate.face_of(7, "photos", 0, STYLES["colour"])
    return Image.fromarray(sample.job.pixels(224))


@pytest.fixture(scope="module")
def couple(portrait) -> Image.Image:
    """A large face on the right and a small one on the left."""
    image = Image.new("RGB", (640, 360), (120, 130, 140))
    image.paste(portrait, (380, 60))
    image.paste(portrait.resize((150, 150)), (60, 120))
    return image


def test_all_faces_come_from_left_to_right_and_the_largest_alone(couple):
    left, right = FaceFinder(which="all").find(couple)
    assert overlap(left, Face(60, 120, 150, 150)) > 0.7
    assert overlap(right, Face(380, 60, 224, 224)) > 0.7
    assert FaceFinder().find(couple) == [right]


def test_boxes_of_large_images_are_in_their_own_pixels(couple):
    small = FaceFinder(align=False).find(couple)[0]
    large = FaceFinder(align=False).find(couple.resize((2560, 1440), Image.Resampling.BICUBIC))[0]
    for name in ("left", "top", "width", "height"):
        assert getattr(large, name) == pytest.approx(4 * getattr(small, name), abs=60)


def test_no_face_is_an_empty_list():
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3)).astype(np.uint8)
    assert FaceFinder(which="all")(Image.fromarray(noise)) == []
    assert FaceFinder()(Image.new("RGB", (1, 1))) == []


def test_a_tilted_face_is_turned_upright(portrait):
    finder = FaceFinder()
    straight = finder.find(portrait)[0].tilt
    turned = portrait.rotate(-10, Image.Resampling.BICUBIC, fillcolor=(120, 130, 140))  # clockwise: right eye lower
    (found,) = finder(turned)
    assert found.face.tilt - straight == pytest.approx(10, abs=4)
    assert abs(finder.find(found.image)[0].tilt) < 4


def test_the_crop_is_a_square_with_its_margin_and_black_beyond_the_image():
    image = Image.new("RGB", (100, 80), (200, 0, 0))
    image.paste((0, 0, 200), (40, 30, 60, 50))
    face = Face(40, 30, 20, 20)
    assert np.asarray(crop(image, face, 0.0)).reshape(-1, 3).tolist() == [[0, 0, 200]] * 400
    wide = np.asarray(crop(image, face, 0.5))
    assert wide.shape == (40, 40, 3)
    assert (wide[10:30, 10:30] == (0, 0, 200)).all()
    assert (wide[:10] == (200, 0, 0)).all()
    outside = np.asarray(crop(image, Face(0, 0, 20, 20), 0.5))
    assert (outside[:10] == 0).all()
    assert (outside[10:, 10:] == (200, 0, 0)).all()


def test_a_crop_turns_about_its_centre():
    """A line that falls to the right by the face's tilt lies level in the crop."""
    image = Image.new("RGB", (200, 200))
    columns = np.arange(200)
    pixels = np.array(image)
    rows = np.round(100 + np.tan(np.radians(20)) * (columns - 100)).astype(int)
    for offset in (-1, 0, 1):
        pixels[rows + offset, columns] = 255
    turned = np.asarray(crop(Image.fromarray(pixels), Face(70, 70, 60, 60, 20.0), 0.0))[..., 0]
    brightest = turned.argmax(axis=0)
    assert np.abs(brightest - 30).max() <= 2
    assert turned.max(axis=0).min() > 128


def test_threads_find_the_same(couple):
    finder = FaceFinder(which="all")
    with futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(finder.find, [couple] * 8))
    assert all(faces == found[0] for faces in found)


def test_what_is_missing_is_named(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(faces_lib.importlib, "import_module", absent)
    with pytest.raises(ModuleNotFoundError, match=r"need OpenCV; install it with: pip install -e '\.\[faces\]'"):
        FaceFinder()
    five = types.SimpleNamespace(__version__="5.0.0")
    monkeypatch.setattr(faces_lib.importlib, "import_module", lambda name: five)
    with pytest.raises(ModuleNotFoundError, match=r"OpenCV 5\.0\.0 has no cascades, versions 4\.10 to 4\.x have"):
        FaceFinder()
    with pytest.raises(ValueError, match="a margin is a fraction"):
        FaceFinder(margin=-0.5)


def overlap(a: Face, b: Face) -> float:
    """Intersection over union."""
    width = min(a.left + a.width, b.left + b.width) - max(a.left, b.left)
    height = min(a.top + a.height, b.top + b.height) - max(a.top, b.top)
    both = max(0, width) * max(0, height)
    return both / (a.width * a.height + b.width * b.height - both)
