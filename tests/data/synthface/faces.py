"""Faces for tests, and a camera without faults."""

import dataclasses

import numpy as np

from mpafer_jax.data.synthface.draw import render
from mpafer_jax.data.synthface.face import Face, Identity, Scene
from mpafer_jax.data.synthface.styles import STYLES, Style
from mpafer_jax.data.synthface.units import INDEX, UNITS, checked

PERSON = Identity(
    head="oval",
    width=1.0,
    jaw=1.0,
    age=0.2,
    skin="light",
    freckles=False,
    hair="short",
    hair_colour="brown",
    brow_shape="straight",
    brow_thickness=1.0,
    eye_colour="brown",
    eye_size=1.0,
    eye_distance=1.0,
    nose_width=1.0,
    nose_length=1.0,
    mouth_width=1.0,
    lip_fullness=1.0,
    lipstick=False,
    earrings=False,
    glasses="none",
    beard="none",
)


def intensities(active=None):
    """Intensities from unit -> strength of both sides, or (left, right); other units are relaxed."""
    values = np.zeros((len(UNITS), 2), np.float32)
    for unit, strength in (active or {}).items():
        values[INDEX[unit]] = strength
    return checked(values)


def clean(name: str = "colour") -> Style:
    """A style whose camera adds nothing."""
    off = (0.0, 0.0)
    return dataclasses.replace(
        STYLES[name], exposure=(1.0, 1.0), contrast=(1.0, 1.0), blur=off, noise=off, jpeg_quality=off
    )


def pixels(active=None, style=None, size=96, person=PERSON, scene=None, seed=0):
    """float[size, size, 3] of a face with some units active; frontal unless `scene` says."""
    face = Face(person, intensities(active), scene or Scene())
    image = render(face, style or clean(), size, np.random.default_rng(seed))
    return np.asarray(image, np.float64)
