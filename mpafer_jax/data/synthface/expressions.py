"""Samples action unit intensities of an expression.

Prototypes and variants: Friesen and Ekman, EMFACS-7: Emotional Facial Action Coding System (1983); Ekman, Friesen and
Hager, Facial Action Coding System: Investigator's Guide (2002), the table of predictions of emotion from units.
Frequencies of missing, added and asymmetric units are ours, chosen so that expressions overlap: the true intensities do
not separate them perfectly.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mpafer_jax.data.synthface.units import INDEX, ONE_SIDED, UNITS, Intensities

PROTOTYPES: Mapping[str, tuple[int, ...]] = {
    "neutral": (),
    "happiness": (6, 12),
    "sadness": (1, 4, 15),
    "surprise": (1, 2, 5, 26),
    "fear": (1, 2, 4, 5, 7, 20, 26),
    "disgust": (9, 15, 17),
    "anger": (4, 5, 7, 23),
    "contempt": (12, 14),
}

# Units added to a prototype in variants, with their probability.
_VARIANTS: Mapping[str, Mapping[int, float]] = {
    "neutral": {},
    "happiness": {25: 0.45, 26: 0.15, 7: 0.1},
    "sadness": {17: 0.35, 6: 0.15, 43: 0.1, 25: 0.1},
    "surprise": {25: 0.5, 27: 0.25},
    "fear": {25: 0.5, 27: 0.1},
    "disgust": {10: 0.45, 4: 0.25, 25: 0.15, 16: 0.15, 6: 0.1},
    "anger": {24: 0.4, 17: 0.25, 10: 0.15, 25: 0.1},
    "contempt": {24: 0.1, 7: 0.1, 43: 0.06},
}

# Relative frequencies, mildly imbalanced as in the wild.
FREQUENCIES: Mapping[str, float] = {
    "neutral": 1.4,
    "happiness": 1.5,
    "sadness": 1.0,
    "surprise": 1.0,
    "fear": 0.75,
    "disgust": 0.8,
    "anger": 0.95,
    "contempt": 0.75,
}

# Mutually exclusive units; the weaker one is removed.
_EXCLUSIVE = ((24, 25), (24, 26), (24, 27), (26, 27), (5, 43), (23, 27), (17, 26), (17, 27), (16, 24), (24, 20))


def sample_units(expression: str, rng: np.random.Generator, difficulty: float = 1.0) -> Intensities:
    """Samples the intensities, float32[20, 2], of one image of an expression.

    Args:
      expression: a name of `PROTOTYPES`.
      difficulty: how weak, mixed and asymmetric it is; 0: complete, symmetric prototypes; 1: as in the wild.
    """
    if expression not in PROTOTYPES:
        raise ValueError(f"no expression {expression!r}; there are {', '.join(PROTOTYPES)}")
    values = np.zeros((len(UNITS), 2), np.float32)
    strength = 1.0 - difficulty * float(rng.beta(1.3, 1.9)) * 0.8
    prototype = PROTOTYPES[expression]
    present = [unit for unit in prototype if rng.random() >= 0.14 * difficulty]
    present += [unit for unit, often in _VARIANTS[expression].items() if rng.random() < often]
    if prototype and not set(present) & set(prototype):
        present.append(prototype[int(rng.integers(len(prototype)))])
    for unit in present:
        values[INDEX[unit]] = strength * rng.uniform(0.75, 1.15)
    for unit in UNITS:  # unrelated movements
        if unit not in present and rng.random() < 0.06 * difficulty:
            values[INDEX[unit]] = rng.uniform(0.1, 0.55)
    if difficulty:
        _make_uneven(values, rng, difficulty)
    if expression == "contempt":
        relaxed = int(rng.integers(2))
        rows = [INDEX[unit] for unit in prototype]
        values[rows, relaxed] *= rng.uniform(0.0, 0.25, len(rows))
    return _reconciled(values)


def sample_random_units(rng: np.random.Generator) -> Intensities:
    """Samples 0 to 7 units at random, independent of expressions, for pre-training.

    Mutually exclusive units never co-occur; a fifth of the units that have sides are on one side only.
    """
    values = np.zeros((len(UNITS), 2), np.float32)
    chosen: set[int] = set()
    wanted = int(rng.integers(0, 8))
    for unit in rng.permutation(UNITS).tolist():
        if len(chosen) == wanted:
            break
        if not any(unit in pair and chosen & (set(pair) - {unit}) for pair in _EXCLUSIVE):
            chosen.add(unit)
            values[INDEX[unit]] = rng.uniform(0.3, 1.0)
            if unit in ONE_SIDED and rng.random() < 0.2:
                values[INDEX[unit], int(rng.integers(2))] = 0.0
    _make_uneven(values, rng, 0.6)
    return values


def _make_uneven(values: Intensities, rng: np.random.Generator, amount: float) -> None:
    weaker = rng.integers(0, 2, len(UNITS))
    factors = 1.0 - min(1.0, 0.4 * amount) * rng.beta(1.0, 2.5, len(UNITS))
    for row, unit in enumerate(UNITS):
        if unit in ONE_SIDED:
            values[row, weaker[row]] *= factors[row]


def _reconciled(values: Intensities) -> Intensities:
    for first, second in _EXCLUSIVE:
        rows = INDEX[first], INDEX[second]
        strengths = [max(values[row].tolist()) for row in rows]
        if min(strengths) > 0:
            values[rows[int(strengths[0] > strengths[1])]] = 0.0
    np.clip(values, 0.0, 1.0, out=values)
    return values
