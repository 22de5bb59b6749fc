"""Eyes with their lids (units 5, 6, 7, 43), brows (1, 2, 4), and glasses."""

from __future__ import annotations

import numpy as np

from mpafer_jax.data.synthface.canvas import Canvas, darker, mix
from mpafer_jax.data.synthface.face import EYE, HAIR, SKIN, Face, Identity
from mpafer_jax.data.synthface.geometry import Points, Vector, between, curve, ellipse, points, spline
from mpafer_jax.data.synthface.muscles import SIDES, Muscles

_WHITE, _PUPIL, _LASH = (240, 238, 234), (18, 14, 14), (34, 24, 24)
_ACROSS = np.linspace(-1, 1, 15)  # along a lid, from the left to the right corner
_BOW = 1 - _ACROSS**2


def draw_eyes(canvas: Canvas, face: Face, muscles: Muscles) -> None:
    """Both eyes."""
    for side in SIDES:
        _draw_eye(canvas, face, muscles, side)


def _lids(identity: Identity, muscles: Muscles, side: int) -> tuple[Vector, Vector, Vector]:
    """x of the lids, y of the upper and of the lower lid: float64[15] each."""
    up, tight, cheek = muscles.on(5, side), muscles.on(7, side), muscles.on(6, side)
    size = identity.eye_size
    x = side * 0.34 * identity.eye_distance + 0.185 * size * _ACROSS
    tilt = -0.014 * side * _ACROSS  # the outer corner is a little higher
    opening = 0.082 * size + 0.066 * up - 0.026 * tight - 0.014 * cheek - 0.014 * identity.age
    opening -= 0.010 * muscles.on(4, side) + 0.012 * muscles.on(9, side)
    below = 0.056 * size - 0.042 * tight - 0.026 * cheek + 0.010 * up - 0.010 * muscles.on(9, side)
    arch = 1 - np.abs(_ACROSS - 0.12 * side * -1) ** 2.2 / (1.12**2.2)
    arch = np.clip(arch, 0, 1) * (1 - _ACROSS**8)
    lower = tilt + max(below, 0.006) * _BOW
    upper = tilt - opening * arch
    closed = muscles.on(43, side)
    upper = upper + closed * (lower + 0.012 * _BOW - upper)
    return x, upper, lower + 0.012 * closed * _BOW


def _draw_eye(canvas: Canvas, face: Face, muscles: Muscles, side: int) -> None:
    identity, scene = face.identity, face.scene
    x, upper, lower = _lids(identity, muscles, side)
    skin = SKIN[identity.skin]
    middle = float(x[7])
    open_share = 1.0 - muscles.on(43, side)
    _fold_lid(canvas, identity, muscles, side, x, upper)
    if open_share > 0.12:
        canvas.fill(between(x, upper, lower), mix(_WHITE, skin, 0.10))
        shadow = between(x, upper, np.minimum(upper + 0.022, lower))
        canvas.fill(shadow, mix(_WHITE, darker(skin, 0.6), 0.45))
        centre = (middle + 0.05 * scene.gaze_x, -0.012 + 0.03 * scene.gaze_y)
        iris = EYE[identity.eye_colour]
        radius = 0.082 * (0.5 + 0.5 * identity.eye_size)
        circles = np.stack([ellipse(*centre, radius * share, radius * share, 22) for share in (1.0, 0.82, 0.45)])
        across, down = circles[..., 0], circles[..., 1]
        np.clip(down, np.interp(across, x, upper), np.interp(across, x, lower), out=down)
        for circle, colour, ink in zip(circles, (darker(iris, 0.55), iris, _PUPIL), (0.75, 0.45, 1.0), strict=True):
            canvas.fill(circle, colour, ink=ink)
        glint = ellipse(centre[0] - 0.028, max(centre[1] - 0.032, float(upper[7]) + 0.02), 0.018, 0.018, 10)
        if float(lower[7]) - float(upper[7]) > 0.06:
            canvas.fill(glint, (252, 252, 252))
    lash = curve(x, upper)
    thickness = (0.036 if identity.lipstick else 0.028) + 0.008 * muscles.on(43, side)
    canvas.stroke(lash, thickness, mix(_LASH, skin, 0.12), ink=1.0, ends=(0.35, 0.55))
    canvas.stroke(curve(x, lower + 0.004), 0.012, darker(skin, 0.55), ink=0.6)
    if open_share < 0.4:  # lashes of a closed lid point down
        for place in (4, 7, 10, 12):
            droop = np.outer((0.0, 0.5, 1.0), (0.025 * _ACROSS[place], 0.042))
            canvas.stroke(lash[place] + droop, 0.016, _LASH)


def _fold_lid(canvas: Canvas, identity: Identity, muscles: Muscles, side: int, x: Vector, upper: Vector) -> None:
    """The crease above the upper lid, and the lid of a closed eye."""
    skin = SKIN[identity.skin]
    closed, up = muscles.on(43, side), muscles.on(5, side)
    height = 0.045 * (1 - 0.55 * up) * (1 - 0.4 * identity.age)
    base = upper * (1 - closed) + closed * (-0.075 * _BOW)
    crease = curve(x, base - height * (1 - 0.35 * _ACROSS**2))
    if closed > 0.1:
        canvas.fill(between(x, crease[:, 1], upper), mix(skin, (255, 232, 214), 0.14))
    canvas.stroke(crease[1:-1], 0.016, darker(skin, 0.62), ink=0.5)


def fold_lower_lid(canvas: Canvas, identity: Identity, muscles: Muscles) -> None:
    """Units 7 and 6 at the lower lid."""
    for side in SIDES:
        tight = muscles.on(7, side)
        x = 0.34 * identity.eye_distance
        canvas.blob(side * x, 0.065, 0.10, 0.022, 0.16 * tight + 0.06 * muscles.on(6, side))
        line = points((x - 0.15, 0.05), (x - 0.04, 0.095), (x + 0.08, 0.09), (x + 0.17, 0.035))
        canvas.fold(line * (side, 1), 0.85 * tight, 0.028)


def brow_line(identity: Identity, muscles: Muscles, side: int) -> Points:
    """The middle line of a brow, inner to outer end: float64[16, 2]."""
    inner, outer, lower = muscles.on(1, side), muscles.on(2, side), muscles.on(4, side)
    nose, cheek, close = muscles.on(9, side), muscles.on(6, side), 0.02 * muscles.on(43, side)
    arch = {"straight": 0.0, "arched": 0.05, "rounded": 0.025}[identity.brow_shape]
    place = points((0.135, -0.272), (0.25, -0.296 - 0.4 * arch), (0.40, -0.30 - arch), (0.565, -0.245 - 0.2 * arch))
    place[:, 1] += close + 0.01 * cheek
    place[:, 1] -= inner * np.array([0.155, 0.09, 0.03, 0.0])
    place[:, 1] -= outer * (1 - 0.5 * lower) * np.array([0.0, 0.06, 0.125, 0.12])
    place[:, 1] += lower * (1 - 0.75 * inner) * np.array([0.085, 0.07, 0.045, 0.02])
    place[:, 0] -= lower * np.array([0.055, 0.05, 0.03, 0.01])
    place[:, 1] += nose * np.array([0.05, 0.04, 0.02, 0.0])
    place[:, 0] *= identity.eye_distance
    return spline(place * (side, 1), 16)


def draw_brows(canvas: Canvas, face: Face, muscles: Muscles) -> None:
    """Both brows."""
    identity = face.identity
    colour = darker(mix(HAIR[identity.hair_colour], (70, 54, 44), 0.35), 0.85)
    for side in SIDES:
        line = brow_line(identity, muscles, side)
        width = 0.062 * identity.brow_thickness
        canvas.stroke(line, width, mix(colour, SKIN[identity.skin], 0.12), ink=0.85, ends=(0.75, 0.15), lift=0.04)


def draw_glasses(canvas: Canvas, identity: Identity, colour: tuple[int, int, int], dark: bool = False) -> None:
    """Frames, and with `dark` dark lenses."""
    shape = 2.0 if identity.glasses != "square" else 4.0
    angle = np.linspace(0, 2 * np.pi, 29)
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = np.sign(cos) * np.abs(cos) ** (2 / shape), np.sign(sin) * np.abs(sin) ** (2 / shape)
    for side in SIDES:
        centre = side * 0.345 * identity.eye_distance
        rim = np.stack([centre + 0.255 * x, 0.015 + (0.20 if shape == 2 else 0.165) * y], axis=1)
        if dark:
            canvas.fill(rim, (34, 34, 40), ink=0.8, edge=1.0, lift=0.1)
            shine = points((centre - 0.14, -0.08), (centre - 0.02, -0.10), (centre - 0.12, 0.06))
            canvas.fill(shine, (96, 98, 108), ink=0.5, lift=0.1)
        canvas.stroke(rim, 0.03, colour, ink=0.9, ends=(1.0, 1.0), lift=0.1)
        arm = points((side * 0.60, -0.01), (side * 0.68, -0.02), (side * 0.78, 0.0))
        canvas.stroke(arm, 0.03, colour, ink=0.9, ends=(1.0, 1.0))
    bridge = spline(points((-0.095, 0.0), (0.0, -0.03), (0.095, 0.0)))
    canvas.stroke(bridge, 0.028, colour, ink=0.9, ends=(1.0, 1.0), lift=0.14)
