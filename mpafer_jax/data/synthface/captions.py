"""Captions of drawn faces: statements about action units, person, scene and medium.

No caption names an expression or a synonym, so a CLIP pretrained on them has not seen the class names.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pydantic

from mpafer_jax.data.synthface.face import Face, Identity, Scene
from mpafer_jax.data.synthface.styles import Style
from mpafer_jax.data.synthface.units import INDEX, UNITS, Intensities

# Intensities: invisible at 96 pixels below the first, clearly visible above the second.
_INVISIBLE, _PLAIN = 0.12, 0.45
_SAID = 0.5  # least truth of a statement in captions
_ONE_SIDED = 0.25  # visible difference of the sides' intensities

_MOUTH_UNITS = (10, 12, 14, 15, 16, 17, 20, 23, 24, 25, 26, 27)
# Units that are always hidden; what other occlusions hide varies.
_HIDDEN: Mapping[str, Sequence[int]] = {"scarf": _MOUTH_UNITS, "sunglasses": (5, 6, 7, 43)}


class Phrases(pydantic.BaseModel):
    """Phrasings of one statement; `held_out` are not used in training."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    phrases: tuple[str, ...]
    held_out: tuple[str, ...]


class _File(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    source: str
    units: dict[int, Phrases]
    states: dict[str, Phrases]
    openings: tuple[str, ...]
    attributes: dict[str, dict[str, tuple[str, ...]]]
    """Of person, scene and medium: name -> value -> phrasings. Light has no side, since training images are flipped."""


@functools.cache
def _phrases() -> _File:
    file = importlib.resources.files("mpafer_jax.data.synthface") / "phrases.json"
    return _File.model_validate_json(file.read_text(encoding="utf-8"))


@functools.cache
def statements() -> dict[str, Phrases]:
    """The statements of `truth`, in its order: action units by number, then states of several units."""
    units = {str(unit): _phrases().units[unit] for unit in UNITS}
    return units | {name: _phrases().states[name] for name in _STATES}


def truth(face: Face) -> npt.NDArray[np.float32]:
    """Truth of each statement for a face, float32[A] in [0, 1]; NaN if its units are hidden."""
    values = _truth_of_units(face.units)
    hidden = set(_HIDDEN.get(face.scene.occlusion, ()))
    read = [*((unit,) for unit in UNITS), *(state.units for state in _STATES.values())]
    values[[not hidden.isdisjoint(units) for units in read]] = np.nan
    return values


def _truth_of_units(units: Intensities) -> npt.NDArray[np.float32]:
    strongest = units.max(axis=1)
    seen = _ramp(strongest)
    states = [state.truth(units) for state in _STATES.values()]
    # "corners pulled up" needs both sides; half-shut lids are not closed eyes.
    seen[INDEX[12]] = _ramp(units[INDEX[12]].min()) if _uneven(units, 12) else seen[INDEX[12]]
    seen[INDEX[43]] = _ramp(np.float32(strongest[INDEX[43]] - 0.4))
    return np.concatenate([seen, np.array(states, np.float32)])


def _ramp(intensity: npt.NDArray[np.float32] | np.float32) -> npt.NDArray[np.float32]:
    return np.clip((np.asarray(intensity, np.float32) - _INVISIBLE) / (_PLAIN - _INVISIBLE), 0, 1)


def _level(units: Intensities, *numbers: int) -> float:
    """Truth that all of several units move."""
    return float(min(_ramp(units[INDEX[number]].max()) for number in numbers))


def _rest(units: Intensities, *numbers: int) -> float:
    """Truth that none of several units moves."""
    return 1 - float(max(_ramp(units[INDEX[number]].max()) for number in numbers))


def _uneven(units: Intensities, number: int) -> bool:
    left, right = units[INDEX[number]]
    return abs(float(left) - float(right)) > _ONE_SIDED


@dataclasses.dataclass(frozen=True)
class _State:
    """A statement about several units, and its truth as a function of the intensities."""

    units: tuple[int, ...]
    truth: Callable[[Intensities], float]
    resting: bool = False


def _at_rest(*units: int) -> _State:
    return _State(units, lambda u: _rest(u, *units), resting=True)


_STATES: Mapping[str, _State] = {
    "both brow ends raised": _State((1, 2, 4), lambda u: _level(u, 1, 2) * _rest(u, 4)),
    "inner ends up and drawn together": _State((1, 4), lambda u: _level(u, 1, 4)),
    "lids droop": _State((43,), lambda u: _level(u, 43) * float(u[INDEX[43]].max() < 0.75)),
    "mouth raised on one side": _State((12,), lambda u: _level(u, 12) * float(_uneven(u, 12))),
    "brows at rest": _at_rest(1, 2, 4),
    "eyes at rest": _at_rest(5, 6, 7, 43),
    "cheeks at rest": _at_rest(6, 9, 12, 14),
    "nose at rest": _at_rest(9),
    "chin at rest": _at_rest(17),
    "mouth at rest": _at_rest(*_MOUTH_UNITS),
}


def caption(face: Face, style: Style, rng: np.random.Generator, *, held_out: bool = False) -> str:
    """A random caption of a face: an opening, up to five true statements, and perhaps one other attribute.

    Args:
      held_out: uses the phrasings that are held out of training.
    """
    phrases = list(statements().values())
    true = np.flatnonzero(truth(face) >= _SAID)
    rests = np.array([False] * len(UNITS) + [state.resting for state in _STATES.values()])
    moving, resting = true[~rests[true]], true[rests[true]]
    chosen = [*_some(moving, rng, 4), *_some(resting, rng, 1 if len(moving) else 3)]
    parts = [_pick(phrases[i].held_out if held_out else phrases[i].phrases, rng) for i in chosen]
    others = _surroundings(face.identity, face.scene, style)
    number = int(rng.integers(2))
    parts += [_pick(others[i], rng) for i in _some(np.arange(len(others)), rng, number)]
    rng.shuffle(parts)
    opening = str(rng.choice(_phrases().openings))
    if not parts:
        return opening
    return f"{opening}, with {_join(parts)}" if "expression" in opening else f"{opening} with {_join(parts)}"


def _some(positions: npt.NDArray[np.int64], rng: np.random.Generator, at_most: int) -> list[int]:
    """A random subset of up to `at_most` positions; with probability 0.5 as many as possible."""
    number = min(len(positions), at_most)
    if number > 1 and rng.random() < 0.5:
        number = int(rng.integers(1, number))
    return rng.permutation(positions)[:number].tolist()


def _pick(phrasings: Sequence[str], rng: np.random.Generator) -> str:
    return phrasings[int(rng.integers(len(phrasings)))]


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])}, and {parts[-1]}"


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _surroundings(identity: Identity, scene: Scene, style: Style) -> list[Sequence[str]]:
    """Attributes of person, scene and medium, each in several phrasings."""
    age = "young" if identity.age < 0.3 else "old" if identity.age > 0.6 else "middle-aged"
    colour = identity.hair_colour
    hair = {
        "bald": ("a bald head", "no hair"),
        "short": (f"short {colour} hair", f"{colour} hair"),
        "fringe": (_with_article(f"{colour} fringe"), f"{colour} hair over the forehead"),
        "long": (f"long {colour} hair", f"{colour} hair"),
        "curly": (f"curly {colour} hair", f"{colour} curls"),
        "ponytail": (f"{colour} hair in a ponytail", f"{colour} hair"),
    }[identity.hair]
    background = _with_article(f"{scene.background_colour} background")
    phrases = _phrases().attributes
    parts: list[Sequence[str]] = [
        (f"the look of {_with_article(age)} person", _with_article(f"{age} face")),
        hair,
        phrases["skin"][identity.skin],
        (f"{identity.eye_colour} eyes",),
        (background, f"{background} behind"),
        (f"{scene.clothes_colour} clothes",),
        phrases["light"][scene.light],
        phrases["medium"][style.medium],
    ]
    if identity.glasses != "none":
        parts.append(phrases["glasses"][identity.glasses])
    if identity.beard != "none":
        parts.append(phrases["beard"][identity.beard])
    if identity.freckles:
        parts.append(("freckles",))
    if identity.lipstick:
        parts.append(("painted lips", "lipstick"))
    if identity.earrings:
        parts.append(("earrings",))
    if scene.occlusion != "none":
        parts.append(phrases["occlusion"][scene.occlusion])
    if abs(scene.yaw) > 10:
        parts.append(("the head turned aside", "a turned head"))
    if abs(scene.roll) > 6:
        parts.append(("a tilted head",))
    return parts
