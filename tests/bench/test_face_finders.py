"""What the measurement of face detectors measures: faces where they are, and that the detector finds drawn ones."""

import numpy as np
import pytest

from mpafer_jax.faces.detect import overlap
from tests.bench import face_finders
from tests.faces import scenes

pytestmark = pytest.mark.bench


def test_faces_lie_where_the_scene_says():
    for seed, tilt in enumerate((0, 30)):
        scene = scenes.pasted(face_finders.drawn("colour", seed), seed, tilt=tilt)
        left, top, width, height = (int(value) for value in scene.box)
        assert scene.image.size == (640, 480)
        outside = np.array(scene.image, int)
        assert 90 <= width == height <= 200
        border = 0 if not tilt else 50
        outside[max(0, top - border) : top + height + border, max(0, left - border) : left + width + border] = 128
        assert (outside == 128).all()
        assert np.asarray(scene.image)[top : top + height, left : left + width].std() > 20


def test_boxes_by_hand():
    assert overlap((0, 0, 2, 2), (1, 1, 2, 2)) == pytest.approx(1 / 7)
    assert overlap((0, 0, 2, 2), (3, 0, 2, 2)) == 0
    assert scenes.located((0, 0, 2, 2), (1, 1, 5, 5))
    assert not scenes.located((0, 0, 1, 1), (1, 1, 5, 5))


def test_drawn_faces_are_counted_and_noise_is_none():
    find = face_finders.yunet()
    drawn = [scenes.pasted(face_finders.drawn("colour", seed), seed) for seed in range(3)]
    result = face_finders.count(find, [*drawn, scenes.noise(0)])
    assert (result.scenes, result.any, result.located) == (4, 3, 3)
    errors = face_finders.tilt_errors(find, [face_finders.drawn("colour", 0)])
    assert len(errors) == 3
    assert np.abs(errors).max() < 5
    table = face_finders.render({"three": {"YuNet": result}})
    assert table.splitlines()[2].startswith(f"| three (4) | 3 / {result.overlapping} / 3, ")
