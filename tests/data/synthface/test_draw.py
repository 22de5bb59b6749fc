"""The renderer: every unit shows where it should and nowhere else, in every style and size."""

import dataclasses
import typing

import numpy as np
import pytest

from mpafer_jax.data.synthface.draw import render
from mpafer_jax.data.synthface.face import Face, Identity, Scene, sample_identity, sample_scene
from mpafer_jax.data.synthface.geometry import Frame
from mpafer_jax.data.synthface.styles import STYLES
from mpafer_jax.data.synthface.units import INDEX, NAMES, ONE_SIDED, UNITS, checked
from tests.data.synthface.faces import PERSON, clean, intensities, pixels

# Where each unit may show, in face coordinates: x from and to, y from and to.
BROWS, EYES, LOWER = (-0.75, 0.75, -0.9, -0.1), (-0.65, 0.65, -0.3, 0.28), (-0.75, 0.75, 0.15, 1.6)
REGIONS = {
    1: BROWS,
    2: BROWS,
    4: (-0.75, 0.75, -0.75, 0.12),
    5: EYES,
    6: (-0.75, 0.75, -0.45, 0.75),
    7: EYES,
    9: (-0.6, 0.6, -0.45, 0.8),
    43: (-0.65, 0.65, -0.42, 0.28),
} | dict.fromkeys((10, 12, 14, 15, 16, 17, 20, 23, 24, 25, 26, 27), LOWER)
VISIBLE = 10.0  # grey levels


def difference(first, second):
    return np.abs(first - second).max(axis=2)


def inside(region, size=96):
    """bool[size, size]: pixels of a frontal face's region."""
    left, right, top, bottom = region
    corners = Frame(Scene(), size)(np.array([[left, top], [right, bottom]]))
    place = np.arange(size) + 0.5
    across, down = ((place >= corners[0, axis]) & (place <= corners[1, axis]) for axis in (0, 1))
    return down[:, None] & across[None, :]


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("skin", ["pale", "dark"])
def test_every_unit_shows_in_its_region_and_not_elsewhere(unit, skin):
    person = dataclasses.replace(PERSON, skin=skin)
    changed = difference(pixels(person=person), pixels({unit: 1.0}, person=person))
    region = inside(REGIONS[unit])
    assert (changed[region] > VISIBLE).sum() >= 60, NAMES[unit]
    # Soft light on the skin has no border; nothing that one could see lies outside.
    assert changed[~region].max() < VISIBLE, NAMES[unit]


@pytest.mark.parametrize("unit", UNITS)
def test_a_stronger_unit_changes_more(unit):
    rest = pixels()
    amounts = [difference(rest, pixels({unit: strength})).sum() for strength in (0.35, 0.7, 1.0)]
    assert 0 < amounts[0] < amounts[1] < amounts[2], NAMES[unit]


@pytest.mark.parametrize("unit", sorted(ONE_SIDED))
@pytest.mark.parametrize("side", [0, 1])
def test_one_side_moves_alone(unit, side):
    strengths = [0.0, 0.0]
    strengths[side] = 1.0
    changed = difference(pixels(), pixels({unit: tuple(strengths)}))
    own, other = changed[:, :48], changed[:, 48:]
    if side:
        own, other = other, own
    # Lines of the nose's root and of the forehead cross the middle.
    assert own.sum() > 2.5 * other.sum(), NAMES[unit]


def test_the_two_sides_are_mirror_images():
    person = dataclasses.replace(PERSON, hair="bald", age=0.0)
    for unit in sorted(ONE_SIDED):
        left, right = (pixels({unit: strengths}, person=person) for strengths in ((0.8, 0.0), (0.0, 0.8)))
        rest = pixels(person=person)
        amounts = [difference(rest, one).sum() for one in (left, right)]
        assert 0.8 < amounts[0] / amounts[1] < 1.25, NAMES[unit]


@pytest.mark.parametrize("name", STYLES)
def test_every_style_shows_every_unit(name):
    style = clean(name)
    rest = pixels(style=style)
    for unit in UNITS:
        changed = difference(rest, pixels({unit: 1.0}, style=style))[inside(REGIONS[unit])]
        assert (changed > VISIBLE).sum() >= 40, (name, NAMES[unit])


@pytest.mark.parametrize("size", [32, 57, 224])
def test_every_size(size):
    for style in STYLES.values():
        image = pixels(size=size, style=style)
        assert image.shape == (size, size, 3)
        assert image.std() > 10


def test_sizes_show_the_same_face():
    large, small = pixels(size=192), pixels(size=48)
    assert np.abs(large.reshape(48, 4, 48, 4, 3).mean(axis=(1, 3)) - small).mean() < 4


@pytest.mark.parametrize("size", [31, 225])
def test_impossible_sizes_are_refused(size):
    with pytest.raises(ValueError, match=f"32 to 224 pixels, found {size}"):
        pixels(size=size)


def test_equal_arguments_give_equal_pixels_and_the_camera_is_random():
    style = STYLES["grey"]
    first, again, other = (pixels({12: 0.7}, style=style, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).mean() > 1


def attributes(kind):
    """Every named value of every attribute of a dataclass."""
    hints = typing.get_type_hints(kind)
    return [(name, value) for name, hint in hints.items() for value in typing.get_args(hint)]


BASES = {"person": PERSON, "scene": Scene(light_strength=0.8, occlusion_x=0.2, background="gradient")}


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        *(("person", *pair) for pair in attributes(Identity)),
        *(("scene", *pair) for pair in attributes(Scene) if pair[1] != "none"),
    ],
)
def test_every_kind_of_person_and_scene_looks_different(part, name, value):
    base, others = BASES[part], [choice for own, choice in attributes(type(BASES[part])) if own == name]
    other = "none" if "none" in others and value != "none" else others[others[0] == value]
    first, second = (pixels(**{part: dataclasses.replace(base, **{name: choice})}) for choice in (value, other))
    assert (difference(first, second) > VISIBLE).sum() >= 20


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        *(("person", name, 1.12) for name in ("width", "jaw", "brow_thickness", "eye_size", "eye_distance")),
        *(("person", name, 1.12) for name in ("nose_width", "nose_length", "mouth_width")),
        *(("person", name, True) for name in ("freckles", "lipstick", "earrings")),
        *(("person", *pair) for pair in (("lip_fullness", 1.3), ("age", 1.0))),
        *(("scene", *pair) for pair in (("yaw", 15), ("pitch", 10), ("roll", 8), ("x", 0.04), ("y", 0.04))),
        *(("scene", *pair) for pair in (("scale", 1.08), ("gaze_x", 1), ("gaze_y", 0.6))),
    ],
)
def test_every_measure_of_a_person_and_scene_shows(part, name, value):
    base = {"person": PERSON, "scene": Scene()}[part]
    changed = difference(pixels(), pixels(**{part: dataclasses.replace(base, **{name: value})}))
    assert (changed > VISIBLE).sum() >= 15


def test_sampled_faces_stay_within_what_is_documented():
    rng = np.random.default_rng(0)
    people, scenes = zip(*((sample_identity(rng), sample_scene(rng, occlusion=0.5)) for _ in range(400)), strict=True)
    for kind, found in ((Identity, people), (Scene, scenes)):
        for name, value in attributes(kind):
            assert any(getattr(one, name) == value for one in found), f"{name} is never {value}"
    for person in people:
        assert 0 <= person.age <= 1
        assert all(0.5 <= getattr(person, name) <= 1.5 for name in ("brow_thickness", "lip_fullness", "nose_width"))
    assert 0.4 < np.mean([scene.occlusion != "none" for scene in scenes]) < 0.6
    still = sample_scene(rng, pose=0.0)
    assert (still.yaw, still.pitch, still.roll, still.x, still.y, still.scale) == (0, 0, 0, 0, 0, 1)


def test_intensities_are_checked():
    assert list(NAMES) == list(UNITS) == list(INDEX)
    values = intensities({12: (0.25, 0.5), 4: 1.0})
    assert values.dtype == np.float32
    assert values[INDEX[12]].tolist() == [0.25, 0.5]
    assert values.sum() == 2.75
    with pytest.raises(ValueError, match=r"must be in 0\.\.1, found 0\.0 to 1\.5"):
        intensities({12: 1.5})
    with pytest.raises(ValueError, match="have the shape"):
        checked(np.zeros((3, 2), np.float32))
    with pytest.raises(ValueError, match="have the shape"):
        render(Face(PERSON, np.zeros((20, 1), np.float32), Scene()), clean(), 32, np.random.default_rng(0))
