"""A drawn video of two people who cross, with expressions that change at known times."""

import dataclasses
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from mpafer_jax.data.synthface import generate
from mpafer_jax.data.synthface.draw import render
from mpafer_jax.data.synthface.expressions import sample_units
from mpafer_jax.data.synthface.face import Face, Scene, sample_identity
from mpafer_jax.data.synthface.styles import STYLES, Style

EXPRESSIONS = (
    ("neutral", "happiness", "surprise", "anger"),
    ("happiness", "sadness", "neutral", "disgust"),
)
_ONSET = 0.3  # seconds that a change of expression takes
_PEOPLE = (0, 3)  # that look different


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Person:
    """Where somebody is in a frame, in pixels, and the expression that is drawn; None while it changes."""

    x: float
    y: float
    size: float
    expression: str | None


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Frame:
    seconds: float
    pixels: np.ndarray  # uint8[height, width, 3]
    people: tuple[Person, Person]  # the first one in front


def frames(
    duration: float = 12.0, rate: float = 15.0, crossings: int = 2, height: int = 240, style: str = "poster"
) -> Iterator[Frame]:
    """Draws the video: two people walk from side to side, one in front of the other, and meet `crossings` times."""
    drawn = dataclasses.replace(STYLES[style], occlusion=0.0)
    for number in range(round(duration * rate)):
        seconds = number / rate
        yield _frame(seconds, seconds / duration, crossings, height, drawn)


def _frame(seconds: float, share: float, crossings: int, height: int, style: Style) -> Frame:
    width = 2 * (8 * height // 9)
    image = Image.new("RGB", (width, height), (92, 112, 128))
    ImageDraw.Draw(image).rectangle((0, round(0.72 * height), width, height), fill=(118, 96, 82))
    people = list[Person]()
    for person in (1, 0):  # the one behind first
        size = height * (0.62, 0.56)[person]
        across = 0.5 + (0.3, -0.3)[person] * np.cos(np.pi * crossings * share)
        x, y = width * across, height * (0.55, 0.45)[person]
        part = share * len(EXPRESSIONS[person])
        face, expression = _face(person, part, part % 1 * seconds / max(part, 1e-9), seconds, style)
        tile = render(face, style, round(size), np.random.default_rng((7, person, round(1000 * seconds))))
        mask = Image.new("L", tile.size)
        ImageDraw.Draw(mask).ellipse((0.07 * size, 0.0, 0.93 * size, 1.06 * size), fill=255)
        mask = mask.filter(ImageFilter.GaussianBlur(size / 100))
        image.paste(tile, (round(x - size / 2), round(y - size / 2)), mask)
        people.append(Person(x, y, size, expression))
    return Frame(seconds, np.asarray(image), (people[1], people[0]))


def _face(person: int, part: float, since: float, seconds: float, style: Style) -> tuple[Face, str | None]:
    """A person's face `since` seconds after the start of part `part` of the expressions."""
    names, number = EXPRESSIONS[person], int(part)

    def units(number: int) -> np.ndarray:
        return sample_units(names[number], np.random.default_rng((11, person, number)), 0.5 * style.difficulty)

    blend = 1.0 if not number else min(1.0, since / _ONSET)
    values = blend * units(number) + (1 - blend) * units(max(0, number - 1))
    identity = sample_identity(np.random.default_rng((generate.IMAGES_PER_PERSON, _PEOPLE[person])))
    scene = Scene(
        yaw=9 * np.sin(1.3 * seconds + person),
        pitch=4 * np.sin(0.9 * seconds + 2 * person),
        roll=5 * np.sin(1.1 * seconds + 3 * person),
        background_colour=("yellow", "teal")[person],
        clothes_colour=("red", "blue")[person],
        light=("left", "front")[person],
    )
    return Face(identity, values.astype(np.float32), scene), names[number] if blend == 1 else None
