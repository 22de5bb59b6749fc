"""Nose (units 9, 10) and mouth (10, 12, 14 to 17, 20, 23 to 27)."""

from __future__ import annotations

import dataclasses

import numpy as np

from mpafer_jax.data.synthface.canvas import Canvas, darker, mix
from mpafer_jax.data.synthface.face import SKIN, Face, Identity, Rgb, Scene
from mpafer_jax.data.synthface.geometry import Points, Vector, between, curve, ellipse, points, spline
from mpafer_jax.data.synthface.muscles import SIDES, Muscles

_LINE = 0.57  # y of the closed mouth
_ACROSS = np.linspace(-1, 1, 25)  # along the lips, from the left to the right corner
_AWAY = np.abs(_ACROSS)  # from the middle
_TO_RIGHT = np.clip(0.5 + 1.5 * _ACROSS, 0, 1)  # share of the right side's intensity
_RAISED = 0.75 + 0.5 * np.exp(-(((_AWAY - 0.5) / 0.25) ** 2))
_DEPRESSED = 0.7 + 0.6 * np.exp(-(((_AWAY - 0.5) / 0.3) ** 2))
_BODY = (1 - _AWAY**2.4) ** 0.8
_BOW = 1 - 0.28 * np.exp(-((_ACROSS / 0.13) ** 2)) + 0.06 * np.exp(-(((_AWAY - 0.25) / 0.12) ** 2))
_INSIDE, _TEETH, _TONGUE = (66, 22, 26), (240, 234, 222), (186, 92, 92)


@dataclasses.dataclass(frozen=True, slots=True)
class Lips:
    """Curves over x, float64[25] each: y of both edges of the upper lip, and of the lower lip."""

    x: Vector
    top: Vector
    upper: Vector
    lower: Vector
    bottom: Vector

    @property
    def corners(self) -> Points:
        """Left and right: float64[2, 2]."""
        return np.array([[self.x[0], self.upper[0]], [self.x[-1], self.upper[-1]]])


def shape_lips(identity: Identity, muscles: Muscles) -> Lips:
    """The lips' curves."""
    m = muscles
    narrow = 0.05 * m.mean(23) + 0.03 * m.mean(24) + 0.06 * m.mean(27) + 0.015 * m.mean(17)
    right = _ACROSS > 0
    ends: list[tuple[float, float]] = []
    for side in SIDES:
        smile, down, stretch, dimple = (m.on(unit, side) for unit in (12, 15, 20, 14))
        x = 0.30 * identity.mouth_width + 0.10 * smile + 0.12 * stretch + 0.015 * down + 0.035 * dimple - narrow
        y = _LINE - 0.135 * smile + 0.115 * down + 0.065 * stretch - 0.03 * dimple + 0.42 * m.jaw()
        ends.append((x, y))
    (left_x, left_y), (right_x, right_y) = ends
    x = _ACROSS * np.where(right, right_x, left_x)
    corner = np.where(right, right_y, left_y)

    def of(unit: int) -> Vector:
        """Intensity along the lips, interpolated across the middle."""
        return m.on(unit, -1) + (m.on(unit, 1) - m.on(unit, -1)) * _TO_RIGHT

    raise_upper = 0.085 * of(10) * _RAISED + 0.035 * of(9)
    gap = max(0.065 * m.mean(25), 0.035 * m.mean(25) + 0.19 * m.mean(26), 0.03 * m.mean(25) + 0.39 * m.mean(27))
    gap += 0.03 * m.mean(12) * (m.mean(25) > 0.1)
    push = 0.05 * m.mean(17)
    depress = 0.085 * of(16) * _DEPRESSED
    middle_upper = _LINE - raise_upper - push - 0.12 * gap + 0.018 * m.mean(12)
    parted = raise_upper * (0.55 if gap < 0.02 else 1.0)  # closed lips move together
    middle_lower = middle_upper + gap + depress + (raise_upper - parted if gap < 0.02 else 0.7 * raise_upper)
    if gap < 0.02:
        middle_lower = middle_upper + depress
    power = 1.9 + 0.5 * m.mean(20) + 1.2 * m.mean(24)
    upper = middle_upper + (corner - middle_upper) * _AWAY**power
    lower = middle_lower + (corner - middle_lower) * _AWAY ** (power + 1.2 * m.mean(27) + 0.6 * m.mean(26))
    thin = (1 - 0.55 * m.mean(23)) * (1 - 0.75 * m.mean(24)) * (1 - 0.25 * m.mean(20)) * identity.lip_fullness
    thin *= 1 - 0.25 * identity.age
    top = upper - 0.078 * thin * _BODY * _BOW * (1 - 0.22 * of(12) - 0.15 * of(10))
    bottom = lower + 0.104 * thin * _BODY * (1 - 0.18 * of(12) + 0.22 * m.mean(17) - 0.1 * of(16))
    return Lips(x, top, upper, np.maximum(lower, upper), np.maximum(bottom, upper + 0.01))


def draw_mouth(canvas: Canvas, face: Face, muscles: Muscles, lips: Lips) -> None:
    """Lips, teeth and tongue."""
    identity = face.identity
    skin = SKIN[identity.skin]
    rose: Rgb = (188, 40, 62) if identity.lipstick else (190, 88, 90)
    colour = mix(skin, rose, 0.85 if identity.lipstick else 0.5)
    colour = mix(colour, darker(skin, 0.9), 0.0 if identity.lipstick else 0.25)
    x = lips.x
    gap = lips.lower - lips.upper
    if gap.max() > 0.012:
        canvas.fill(between(x, lips.upper, lips.lower), _INSIDE, ink=0.85)
        _draw_teeth(canvas, muscles, lips)
    canvas.fill(between(x, lips.top, lips.upper), darker(colour, 0.86), ink=0.12)
    canvas.fill(between(x, lips.lower, lips.bottom), colour, ink=0.06)
    shine = between(
        x[7:18], (0.65 * lips.lower + 0.35 * lips.bottom)[7:18], (0.4 * lips.lower + 0.6 * lips.bottom)[7:18]
    )
    canvas.fill(shine, mix(colour, (255, 236, 230), 0.25), ink=0.0)
    line = darker(mix(colour, (70, 20, 24), 0.45), 0.75)
    if gap.max() <= 0.012:
        seam = (lips.upper + lips.lower) / 2
        canvas.stroke(curve(x, seam), 0.026 + 0.008 * muscles.mean(24), line, ink=1.0, ends=(0.6, 0.6))
    else:
        canvas.stroke(curve(x, lips.upper), 0.018, line, ink=0.9, ends=(0.6, 0.6))
        canvas.stroke(curve(x, lips.lower), 0.018, line, ink=0.9, ends=(0.6, 0.6))
    canvas.stroke(curve(x, lips.top)[1:-1], 0.010, darker(colour, 0.8), ink=0.55)
    canvas.stroke(curve(x, lips.bottom)[3:-3], 0.012, darker(skin, 0.66), ink=0.5)
    for side, (cx, cy) in zip(SIDES, lips.corners.tolist(), strict=True):
        smile, down, dimple = muscles.on(12, side), muscles.on(15, side), muscles.on(14, side)
        rise = -0.035 * smile + 0.04 * down - 0.01 * dimple
        tip = points(
            (cx - side * 0.02, cy),
            (cx + side * 0.015, cy + 0.4 * rise),
            (cx + side * (0.03 + 0.02 * dimple), cy + rise),
        )
        canvas.stroke(tip, 0.03 + 0.02 * dimple, line, ink=0.95, ends=(0.8, 0.3))


def _draw_teeth(canvas: Canvas, muscles: Muscles, lips: Lips) -> None:
    x, gap = lips.x, lips.lower - lips.upper
    inner = slice(3, -3)
    show = 0.035 + 0.05 * muscles.mean(12) + 0.06 * muscles.mean(10) + 0.02 * muscles.mean(20)
    edge = np.minimum(lips.upper + show, lips.upper + 0.86 * gap)
    canvas.fill(between(x[inner], lips.upper[inner], edge[inner]), _TEETH)
    low = 0.075 * muscles.mean(16) + 0.03 * muscles.mean(20)
    if low > 0.01:
        edge = np.maximum(lips.lower - low, lips.lower - 0.5 * gap)
        canvas.fill(between(x[inner], edge[inner], lips.lower[inner]), darker(_TEETH, 0.94))
    if gap.max() > 0.13:
        tongue = slice(6, -6)
        edge = lips.lower - (0.35 * gap * (1 - (_ACROSS / 0.55) ** 2).clip(0, 1) ** 0.5)
        canvas.fill(between(x[tongue], edge[tongue], lips.lower[tongue]), _TONGUE, ink=0.35)


def shape_mouth_skin(canvas: Canvas, muscles: Muscles, lips: Lips) -> None:
    """Bulges and folds around the lips (units 16, 23, 24)."""
    tight, pressed, lower = muscles.mean(23), muscles.mean(24), muscles.mean(16)
    middle_top, middle_bottom = float(lips.top[12]), float(lips.bottom[12])
    canvas.blob(0, middle_bottom + 0.05, 0.13, 0.03, -0.12)
    canvas.blob(0, middle_top - 0.07, 0.035, 0.05, -0.05)
    if pressed:
        for side in SIDES:
            canvas.blob(side * 0.13, middle_top - 0.04, 0.09, 0.025, 0.16 * pressed)
            canvas.blob(side * 0.13, middle_bottom + 0.045, 0.09, 0.025, 0.16 * pressed)
            x = abs(float(lips.x[-1])) + 0.03
            y = float(lips.upper[0] + lips.upper[-1]) / 2
            line = points((x, y - 0.05), (x + 0.025, y), (x, y + 0.05))
            canvas.fold(line * (side, 1), 0.8 * pressed, 0.03)
        below = middle_bottom + 0.065
        canvas.fold(points((-0.17, below - 0.02), (0, below + 0.01), (0.17, below - 0.02)), 0.75 * pressed, 0.028)
    if tight:
        for x in (-0.17, -0.085, 0.0, 0.085, 0.17):
            top = float(np.interp(x, lips.x, lips.top))
            canvas.fold(points((x, top - 0.085), (0.97 * x, top - 0.05), (0.94 * x, top - 0.012)), 0.5 * tight, 0.02)
        below = middle_bottom + 0.04
        for x in (-0.13, -0.045, 0.045, 0.13):
            canvas.fold(
                points((0.94 * x, below - 0.02), (0.97 * x, below + 0.015), (x, below + 0.05)), 0.4 * tight, 0.02
            )
    if lower:
        below = middle_bottom + 0.055
        canvas.fold(
            points((-0.20, below - 0.05), (-0.1, below), (0.1, below), (0.20, below - 0.05)), 0.55 * lower, 0.03
        )


def shape_nose_skin(canvas: Canvas, identity: Identity, scene: Scene, muscles: Muscles) -> None:
    """Light and shade on the nose."""
    scene_light = {"left": -1.0, "right": 1.0}.get(scene.light, 0.0) * scene.light_strength
    width = identity.nose_width
    canvas.blob(0.01 * scene_light, 0.06, 0.04, 0.17, 0.14)
    canvas.blob(0, _tip(identity, muscles) - 0.03, 0.055, 0.05, 0.17)
    for side in SIDES:
        canvas.blob(side * 0.115 * width, 0.08, 0.045, 0.16, -0.10 + 0.05 * side * scene_light)
        canvas.blob(side * 0.15 * width, 0.31, 0.04, 0.05, -0.08)
    canvas.blob(0, _tip(identity, muscles) + 0.06, 0.10, 0.028, -0.20)


def _tip(identity: Identity, muscles: Muscles) -> float:
    return 0.305 * identity.nose_length - 0.03 * muscles.mean(9)


def draw_nose(canvas: Canvas, identity: Identity, muscles: Muscles) -> None:
    """Nostrils, wings and the line below the tip."""
    skin = SKIN[identity.skin]
    width, tip = identity.nose_width, _tip(identity, muscles)
    dark = darker(mix(skin, (90, 30, 30), 0.3), 0.5)
    for side in SIDES:
        lift = 0.055 * muscles.on(9, side) + 0.025 * muscles.on(10, side)
        wide = 0.02 * muscles.on(9, side) + 0.01 * muscles.on(10, side)
        wing = points(
            (0.105, tip - 0.055),
            (0.155 + wide, tip - 0.01 - 0.5 * lift),
            (0.145 + wide, tip + 0.045 - lift),
            (0.105, tip + 0.05 - lift),
        )
        wing[:, 0] *= width
        canvas.stroke(spline(wing * (side, 1)), 0.022, darker(skin, 0.62), ink=0.75, lift=0.06)
        nostril = ellipse(
            side * 0.068 * width,
            tip + 0.045 - 0.35 * lift,
            0.036 * width + 0.4 * wide,
            0.019 + 0.006 * muscles.on(9, side),
            12,
        )
        canvas.fill(nostril, dark, ink=0.9, lift=0.1)
    base = spline(points((-0.03, tip + 0.055), (0.0, tip + 0.066), (0.03, tip + 0.055)))
    canvas.stroke(base, 0.014, darker(skin, 0.68), ink=0.5, lift=0.12)
