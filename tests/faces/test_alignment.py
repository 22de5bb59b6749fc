"""Alignment by five landmarks, against values by hand and Umeyama's solution by singular values."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mpafer_jax.data.records import AlignedFace
from mpafer_jax.faces import alignment
from tests.data import layouts


def umeyama(points: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The transform as in Umeyama's paper, eq. 40 to 42."""
    mean_x, mean_y = points.mean(axis=0), targets.mean(axis=0)
    covariance = (targets - mean_y).T @ (points - mean_x) / len(points)
    u, d, vt = np.linalg.svd(covariance)
    s = np.diag([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ s @ vt
    scale = np.trace(np.diag(d) @ s) / np.square(points - mean_x).sum(axis=1).mean()
    return np.column_stack([scale * rotation, mean_y - scale * rotation @ mean_x])


def test_a_quarter_turn_by_hand() -> None:
    # (x, y) -> (1 - 2 y, 3 + 2 x): a quarter turn, twice the size, moved by (1, 3).
    points = [(0, 0), (1, 0), (0, 1), (2, 3)]
    targets = [(1, 3), (1, 5), (-1, 3), (-5, 7)]
    np.testing.assert_allclose(alignment.similarity(points, targets), [[0, -2, 1], [2, 0, 3]], atol=1e-12)


def test_noisy_points_as_by_singular_values() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = rng.uniform(0, 100, (5, 2))
        targets = 224 * np.array(alignment.TEMPLATE) + rng.normal(0, 5, (5, 2))
        np.testing.assert_allclose(
            alignment.similarity(points, targets), umeyama(points, targets), rtol=1e-9, atol=1e-9
        )


def test_a_reflection_is_not_undone() -> None:
    points = np.array([(0.0, 0.0), (1.0, 0.0), (0.0, 2.0), (1.0, 5.0)])
    mirrored = points * (-1, 1)
    matrix = alignment.similarity(points, mirrored)
    assert np.linalg.det(matrix[:, :2]) > 0
    np.testing.assert_allclose(matrix, umeyama(points, mirrored), atol=1e-9)


@pytest.mark.parametrize("points", [[(3, 4)] * 5, [(np.nan, 0), (1, 1), (2, 2), (3, 3), (4, 5)]])
def test_points_without_an_extent_are_refused(points: list) -> None:
    with pytest.raises(ValueError, match="no similarity transform"):
        alignment.align(Image.new("RGB", (9, 9)), points)


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("degrees", [0, 25, -140])
def test_landmarks_come_to_their_places(scale: float, degrees: float) -> None:
    """A dot at each landmark of a turned face of any size lies where the template says."""
    angle = np.deg2rad(degrees)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    side = 200
    points = (side * (np.array(alignment.TEMPLATE) - 0.5)) @ turn.T + (400.0, 450.0)
    radius = 6 * scale
    for landmark, (x, y) in enumerate(points):
        image = Image.new("L", (800, 900))
        ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
        crop = np.asarray(alignment.align(image, points, size=100), np.float64)
        assert crop.shape == (100, 100)
        # The center of the mass, whose pixels' centers are at halves.
        rows, columns = np.indices(crop.shape) + 0.5
        center = np.array([(columns * crop).sum(), (rows * crop).sum()]) / crop.sum()
        np.testing.assert_allclose(center, 100 * np.array(alignment.TEMPLATE[landmark]), atol=0.6)


def test_a_large_face_is_reduced_with_a_filter() -> None:
    """Lines of one pixel become grey, and not black and white by where the pixels happen to lie."""
    stripes = np.zeros((1600, 1600), np.uint8)
    stripes[:, ::2] = 255
    crop = np.asarray(alignment.align(Image.fromarray(stripes), 1600 * np.array(alignment.TEMPLATE), size=100))
    assert (np.abs(crop[2:-2, 2:-2].astype(int) - 127) <= 3).all()


def test_what_lies_beyond_the_image_is_black() -> None:
    points = 100 * (np.array(alignment.TEMPLATE) - 0.5)  # around the image's corner
    crop = np.asarray(alignment.align(Image.new("RGB", (80, 80), (255, 255, 255)), points, size=100))
    assert crop[10, 10].tolist() == crop[70, 30].tolist() == [0, 0, 0]
    assert crop[75, 75].tolist() == [255, 255, 255]


def test_a_face_is_read_from_its_photograph(tmp_path: Path) -> None:
    layouts.save(tmp_path / "a.png", layouts.image(0, 120, 90))
    face = AlignedFace(tmp_path / "a.png", layouts.RAFDB_POINTS)
    crop = Image.open(io.BytesIO(face.read()))
    assert (crop.format, crop.mode, crop.size) == ("JPEG", "RGB", (224, 224))
    assert "224x224" in face.stamp()
    assert face.stamp() != AlignedFace(tmp_path / "a.png", ((41.0, 30.0), *layouts.RAFDB_POINTS[1:])).stamp()
    with pytest.raises(ValueError, match="no similarity transform"):
        AlignedFace(tmp_path / "a.png", ((1.0, 1.0),) * 5).read()


def test_tilt_and_placement_of_a_turned_face() -> None:
    angle = np.deg2rad(35)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = 100 * (np.array(alignment.TEMPLATE) - 0.5) @ turn.T + (300, 200)
    assert alignment.tilt(points) == pytest.approx(35)  # the eye on the right is lower
    upright, side = alignment.placement(points, None)
    assert side == 100
    np.testing.assert_allclose(alignment.apply(upright, points), 100 * np.array(alignment.TEMPLATE), atol=1e-9)
    tilted, side = alignment.placement(points, None, upright=False)
    assert side == 100
    np.testing.assert_allclose(tilted, [[1, 0, -250], [0, 1, -150]], atol=1e-9)
    wide, side = alignment.placement(points, None, 0.5)
    assert side == 200
    np.testing.assert_allclose(alignment.apply(wide, points), 100 * np.array(alignment.TEMPLATE) + 50, atol=1e-9)
    np.testing.assert_allclose(alignment.apply(alignment.inverse(wide), alignment.apply(wide, points)), points)


def test_a_crop_outside_of_the_image_is_black() -> None:
    points = 50 * np.array(alignment.TEMPLATE) + 500
    assert not np.asarray(alignment.align(Image.new("RGB", (90, 80), (255, 255, 255)), points, size=30)).any()


@pytest.mark.parametrize("margin", [0.0, -0.12, 0.3])
def test_the_fractions_in_words_are_where_landmarks_lie(margin):
    points = 40 + 90 * np.array(alignment.TEMPLATE)
    matrix, side = alignment.placement(points, 64, margin)
    found = alignment.apply(matrix, points) / side
    said = re.findall(r"\(([\d.]+), ([\d.]+)\)", alignment.describe_targets(64, margin))
    np.testing.assert_allclose(np.array(said, float), found, atol=1e-4)
