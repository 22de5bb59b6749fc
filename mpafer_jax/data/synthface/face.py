"""Parameters of a drawn face: a person, a scene and action units; independent of expressions."""

from __future__ import annotations

import bisect
import dataclasses
import functools
from collections.abc import Mapping
from typing import Literal, TypeVar

import numpy as np

from mpafer_jax.data.synthface.units import Intensities

Rgb = tuple[int, int, int]
HeadShape = Literal["oval", "round", "square", "long", "heart"]
SkinTone = Literal["pale", "light", "olive", "tan", "brown", "dark"]
HairStyle = Literal["bald", "short", "fringe", "long", "curly", "ponytail"]
HairColour = Literal["black", "brown", "blond", "red", "grey", "white"]
BrowShape = Literal["straight", "arched", "rounded"]
EyeColour = Literal["brown", "hazel", "green", "blue", "grey"]
Glasses = Literal["none", "round", "square"]
Beard = Literal["none", "stubble", "moustache", "goatee", "full"]
Light = Literal["front", "left", "right", "top"]
Background = Literal["plain", "gradient", "blurred", "stripes"]
Occlusion = Literal["none", "hand", "scarf", "hair", "sunglasses", "cup", "bar"]
Colour = Literal[
    "white", "grey", "black", "red", "orange", "yellow", "green", "teal", "blue", "purple", "pink", "brown"
]

SKIN: Mapping[SkinTone, Rgb] = {
    "pale": (236, 205, 187),
    "light": (226, 184, 158),
    "olive": (212, 166, 128),
    "tan": (186, 134, 98),
    "brown": (142, 96, 68),
    "dark": (98, 65, 49),
}
HAIR: Mapping[HairColour, Rgb] = {
    "black": (36, 30, 30),
    "brown": (88, 58, 38),
    "blond": (214, 176, 110),
    "red": (158, 74, 36),
    "grey": (142, 140, 138),
    "white": (226, 224, 220),
}
EYE: Mapping[EyeColour, Rgb] = {
    "brown": (84, 52, 30),
    "hazel": (126, 96, 48),
    "green": (78, 122, 82),
    "blue": (70, 120, 176),
    "grey": (116, 130, 140),
}
COLOUR: Mapping[Colour, Rgb] = {
    "white": (232, 232, 228),
    "grey": (140, 142, 146),
    "black": (42, 42, 46),
    "red": (178, 48, 46),
    "orange": (222, 134, 58),
    "yellow": (232, 204, 92),
    "green": (86, 142, 84),
    "teal": (66, 144, 146),
    "blue": (74, 112, 176),
    "purple": (122, 84, 150),
    "pink": (222, 150, 170),
    "brown": (124, 90, 64),
}
_Name = TypeVar("_Name", bound=str)


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """A person.

    Attributes:
      width, jaw: of the head and of the lower face, relative to the average, about 0.9 to 1.1.
      age: 0 (twenty) to 1 (eighty): wrinkles, drooping lids.
      brow_thickness, eye_size, eye_distance, nose_width, nose_length, mouth_width, lip_fullness: relative to the
        average.
    """

    head: HeadShape
    width: float
    jaw: float
    age: float
    skin: SkinTone
    freckles: bool
    hair: HairStyle
    hair_colour: HairColour
    brow_shape: BrowShape
    brow_thickness: float
    eye_colour: EyeColour
    eye_size: float
    eye_distance: float
    nose_width: float
    nose_length: float
    mouth_width: float
    lip_fullness: float
    lipstick: bool
    earrings: bool
    glasses: Glasses
    beard: Beard


@dataclasses.dataclass(frozen=True, slots=True)
class Scene:
    """Pose, light, background and occlusion.

    Attributes:
      yaw, pitch, roll: degrees; positive: to the right side of the image, down, and clockwise.
      x, y: offset of the face from the middle, right and down, as a fraction of the image's side.
      scale: relative to a face that fills the image.
      light: direction of the light.
      light_strength: 0 (even) to 1 (hard).
      occlusion_x, occlusion_y: position, -1 to 1 across the face, of objects that have one.
      gaze_x, gaze_y: direction of the eyes, -1 to 1.
    """

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    x: float = 0.0
    y: float = 0.0
    scale: float = 1.0
    light: Light = "front"
    light_strength: float = 0.4
    background: Background = "plain"
    background_colour: Colour = "grey"
    clothes_colour: Colour = "blue"
    occlusion: Occlusion = "none"
    occlusion_x: float = 0.0
    occlusion_y: float = 0.0
    gaze_x: float = 0.0
    gaze_y: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Face:
    """Input of `draw.render`; `units` is float32[20, 2], see `units.Intensities`."""

    identity: Identity
    units: Intensities
    scene: Scene


def choose(rng: np.random.Generator, weights: Mapping[_Name, float]) -> _Name:
    """Samples a name in proportion to the weights."""
    # What `rng.choice` does with `p`, without its checks, which take longer.
    return list(weights)[bisect.bisect(_cumulative(tuple(weights.values())), rng.random())]


@functools.lru_cache(maxsize=256)
def _cumulative(weights: tuple[float, ...]) -> list[float]:
    """The weights' cumulative sums, as shares of their sum."""
    sums = np.cumsum(np.array(weights, np.float64) / np.sum(weights))
    return (sums / sums[-1]).tolist()


def sample_identity(rng: np.random.Generator) -> Identity:
    """Samples a person, with plausible combinations of skin, hair, eyes and age."""
    skin = choose(rng, dict.fromkeys(SKIN, 1.0))
    age = float(rng.beta(1.2, 1.8))
    lightness = 1.0 - list(SKIN).index(skin) / (len(SKIN) - 1)
    hair_colours: dict[HairColour, float] = {
        "black": 1.0 + 2.0 * (1 - lightness),
        "brown": 0.6 + 0.6 * lightness,
        "blond": 1.2 * lightness**2,
        "red": 0.7 * lightness**2,
        "grey": 3.0 * max(0.0, age - 0.35),
        "white": 4.0 * max(0.0, age - 0.6),
    }
    hair_colour = choose(rng, hair_colours)
    beard_free = bool(rng.random() < 0.6)
    long_hair = 1.0 if beard_free else 0.15
    hair_styles: dict[HairStyle, float] = {
        "bald": 0.1 if beard_free else 0.5,
        "short": 1.0,
        "fringe": 0.6 * long_hair + 0.2,
        "long": 1.0 * long_hair,
        "curly": 0.6,
        "ponytail": 0.5 * long_hair,
    }
    hair = choose(rng, hair_styles)
    return Identity(
        head=choose(rng, {"oval": 1.5, "round": 1.0, "square": 1.0, "long": 0.8, "heart": 0.8}),
        width=_around(rng, 0.04, 0.9, 1.1),
        jaw=_around(rng, 0.05, 0.88, 1.12),
        age=age,
        skin=skin,
        freckles=bool(rng.random() < 0.2 * lightness),
        hair=hair,
        hair_colour=hair_colour,
        brow_shape=choose(rng, {"straight": 1.0, "arched": 1.0, "rounded": 1.0}),
        brow_thickness=_around(rng, 0.22, 0.6, 1.5),
        eye_colour=choose(
            rng,
            {
                "brown": 1.0 + 2.0 * (1 - lightness),
                "hazel": 0.6,
                "green": 0.6 * lightness**2,
                "blue": 1.2 * lightness**2,
                "grey": 0.4 * lightness**2,
            },
        ),
        eye_size=_around(rng, 0.06, 0.86, 1.14),
        eye_distance=_around(rng, 0.035, 0.92, 1.08),
        nose_width=_around(rng, 0.1, 0.8, 1.25),
        nose_length=_around(rng, 0.05, 0.88, 1.12),
        mouth_width=_around(rng, 0.05, 0.88, 1.12),
        lip_fullness=_around(rng, 0.2, 0.6, 1.45),
        lipstick=bool(beard_free and rng.random() < 0.3),
        earrings=bool(rng.random() < (0.35 if beard_free else 0.05)),
        glasses=choose(rng, {"none": 0.8, "round": 0.1, "square": 0.1}),
        beard="none"
        if beard_free
        else choose(rng, {"none": 0.4, "stubble": 1.0, "moustache": 0.6, "goatee": 0.5, "full": 0.8}),
    )


def sample_scene(rng: np.random.Generator, occlusion: float = 0.1, pose: float = 1.0) -> Scene:
    """Samples a scene.

    Args:
      occlusion: probability of an occluding object.
      pose: spread of rotation, position and size; 1 as of detected and cropped faces, 0 none.
    """
    hidden = rng.random() < occlusion
    kind: Occlusion = choose(rng, {"hand": 1.2, "scarf": 0.4, "hair": 0.8, "sunglasses": 0.4, "cup": 0.7, "bar": 1.5})
    side, height = rng.uniform(-1, 1, 2)
    return Scene(
        yaw=pose * _around(rng, 9.0, -24.0, 24.0, middle=0.0),
        pitch=pose * _around(rng, 6.0, -15.0, 15.0, middle=0.0),
        roll=pose * _around(rng, 5.0, -14.0, 14.0, middle=0.0),
        x=pose * _around(rng, 0.02, -0.05, 0.05, middle=0.0),
        y=pose * _around(rng, 0.02, -0.05, 0.05, middle=0.0),
        scale=1.0 + pose * _around(rng, 0.05, -0.1, 0.1, middle=0.0),
        light=choose(rng, {"front": 1.2, "left": 1.0, "right": 1.0, "top": 0.8}),
        light_strength=float(rng.uniform(0.15, 0.9)),
        background=choose(rng, {"plain": 1.0, "gradient": 1.0, "blurred": 1.2, "stripes": 0.5}),
        background_colour=choose(rng, dict.fromkeys(COLOUR, 1.0)),
        clothes_colour=choose(rng, dict.fromkeys(COLOUR, 1.0)),
        occlusion=kind if hidden else "none",
        occlusion_x=float(side),
        occlusion_y=float(height),
        gaze_x=_around(rng, 0.3, -1.0, 1.0, middle=0.0),
        gaze_y=_around(rng, 0.2, -0.6, 0.6, middle=0.0),
    )


def suited(scene: Scene, identity: Identity) -> Scene:
    """The scene, with a bar instead of hair as the occlusion of a bald person."""
    if scene.occlusion == "hair" and identity.hair == "bald":
        return dataclasses.replace(scene, occlusion="bar")
    return scene


def _around(rng: np.random.Generator, spread: float, low: float, high: float, middle: float = 1.0) -> float:
    return min(max(rng.normal(middle, spread), low), high)
