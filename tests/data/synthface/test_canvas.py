"""The canvas: shapes are collected and drawn together, with the result of drawing them one by one."""

import numpy as np
import pytest
from PIL import Image

from mpafer_jax.data.synthface.canvas import Canvas, coloured
from mpafer_jax.data.synthface.face import Scene, choose
from mpafer_jax.data.synthface.geometry import Frame, between, points, ribbons

RED, BLUE = (200, 0, 0), (0, 0, 200)
SCENE = Scene(yaw=12.0, roll=5.0, scale=0.9)


def drawn(look_between: bool):
    """Colour and ink of two fills and two strokes over one another."""
    canvas = Canvas(Frame(SCENE, 64))
    square = points((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))
    shapes = [
        lambda: canvas.fill(square, RED, ink=0.2, edge=1.0),
        lambda: canvas.stroke(points((-0.6, 0.0), (0.1, 0.0), (0.6, 0.1)), 0.2, BLUE, lift=0.1),
        lambda: canvas.fill(0.5 * square, RED, flat=1),
        lambda: canvas.stroke(points((0.0, -0.6), (0.0, 0.6)), 0.1, BLUE, ink=1.0, ends=(1.0, 1.0)),
    ]
    for shape in shapes:
        shape()
        if look_between:
            assert canvas.colour.size == canvas.ink.size == (64, 64)
    return np.asarray(canvas.colour), np.asarray(canvas.ink)


def test_shapes_drawn_together_are_those_drawn_one_by_one():
    together, alone = drawn(look_between=False), drawn(look_between=True)
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one, other)
    assert {tuple(colour) for colour in together[0].reshape(-1, 3).tolist()} == {(0, 0, 0), RED, BLUE}
    middle = Frame(SCENE, 64)(np.zeros((1, 2)))[0].astype(int)
    assert tuple(together[0][middle[1], middle[0]]) == BLUE  # the last shape is on top
    assert together[1][middle[1], middle[0]] == 255


def test_ribbons_go_along_one_side_and_back_along_the_other():
    across, down = points((0, 0), (1, 0), (2, 0)), points((5, 5), (5, 8))
    widths = [np.array([2.0, 4.0, 2.0]), np.array([1.0, 3.0])]
    first, second = ribbons(np.concatenate([across, down]), widths)
    # The middle point's direction spans two pieces, of length 2 together.
    assert first == pytest.approx([0, 1, 1, 2, 2, 1, 2, -1, 1, -2, 0, -1])
    assert second == pytest.approx([4.5, 5, 3.5, 8, 6.5, 8, 5.5, 5])


def test_an_outline_between_curves():
    outline = between(np.array([0.0, 1.0]), np.array([2.0, 3.0]), np.array([4.0, 5.0]))
    assert outline.tolist() == [[0, 2], [1, 3], [1, 5], [0, 4]]


def test_folds_change_what_is_near_them_alone():
    canvas = Canvas(Frame(Scene(), 128))
    canvas.fill(points((-3, -3), (3, -3), (3, 3), (-3, 3)), (120, 90, 60))
    before = np.asarray(canvas.colour).astype(int)
    canvas.fold(points((-0.3, 0.0), (0.0, 0.05), (0.3, 0.0)), 1.0, width=0.05)
    canvas.emboss()
    change = np.asarray(canvas.colour) - before
    assert change.min() < -20
    assert change.max() > 5
    low, high = Frame(Scene(), 128)(points((-0.4, -0.1), (0.4, 0.2)))
    outside = np.ones((128, 128), bool)
    outside[int(low[1]) : int(high[1]), int(low[0]) : int(high[0])] = False
    assert not change[outside].any()


def test_levels_become_their_colours():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    colours = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)
    np.testing.assert_array_equal(np.asarray(coloured(Image.fromarray(levels), colours)), colours[levels])


def test_names_are_chosen_as_by_numpy():
    weights = {"often": 3.0, "never": 0.0, "seldom": 0.1, "sometimes": 1.3}
    shares = np.array(list(weights.values())) / sum(weights.values())
    ours, theirs = np.random.default_rng(4), np.random.default_rng(4)
    for _ in range(300):
        assert choose(ours, weights) == list(weights)[theirs.choice(len(weights), p=shares)]
