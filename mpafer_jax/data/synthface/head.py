"""Head, neck, ears, skin and light, and the skin's folds by action units and age."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from mpafer_jax.data.synthface.canvas import LOW, Canvas, Plane, coloured, darker, mix
from mpafer_jax.data.synthface.face import COLOUR, SKIN, Face, Identity, Rgb, Scene
from mpafer_jax.data.synthface.geometry import Points, ellipse, points, spline
from mpafer_jax.data.synthface.muscles import SIDES, Muscles
from mpafer_jax.data.synthface.styles import Medium

# Half widths at (temple, cheekbone, jaw angle, chin) and the chin's y.
_SHAPES = {
    "oval": (0.68, 0.72, 0.59, 0.24, 1.02),
    "round": (0.70, 0.76, 0.65, 0.30, 0.99),
    "square": (0.70, 0.73, 0.67, 0.36, 1.01),
    "long": (0.65, 0.68, 0.56, 0.25, 1.07),
    "heart": (0.71, 0.73, 0.54, 0.17, 1.02),
}
_TONE = np.digitize(np.arange(256), (85, 113, 153))  # level of light -> one of four flat tones
_LIGHT = {"front": (0.0, 0.1), "left": (-1.0, 0.15), "right": (1.0, 0.15), "top": (0.0, 1.0)}


def outline(identity: Identity, muscles: Muscles) -> Points:
    """The closed outline of the head."""
    temple, cheek, jaw, chin, _ = (value * identity.width for value in _SHAPES[identity.head])
    jaw, chin = jaw * identity.jaw, chin * identity.jaw
    drop = muscles.jaw()
    low = _SHAPES[identity.head][4] + drop - 0.02 * muscles.mean(17)
    right = [(0.0, -0.99), (0.40, -0.92), (temple * 0.93, -0.64), (temple * 1.02, -0.30)]
    right += [(cheek, 0.1), (cheek * 0.95 - 0.06 * drop, 0.40), (jaw - 0.15 * drop, 0.68 + 0.55 * drop)]
    right += [((jaw + chin) * 0.48, 0.85 + 0.8 * drop), (chin * 0.8, low - 0.045), (0.0, low)]
    left = [(-x, y) for x, y in right[-2:0:-1]]
    return spline(points(*right, *left), closed=True)


def draw_behind(canvas: Canvas, face: Face) -> None:
    """Neck, clothes and ears."""
    identity, scene = face.identity, face.scene
    skin = SKIN[identity.skin]
    neck = points((-0.36, 0.6), (0.36, 0.6), (0.40, 1.2), (0.62, 1.5), (-0.62, 1.5), (-0.40, 1.2))
    canvas.fill(neck, darker(skin, 0.72), edge=0.5, flat=1)
    canvas.fill(ellipse(0.0, 0.95, 0.37, 0.30), darker(skin, 0.56), edge=0.0, flat=1)
    right = [(0.5, 0.93), (1.0, 1.02), (1.5, 1.25)]
    cloth = spline(points(*((-x, y) for x, y in right[::-1]), (0.0, 1.14), *right))
    canvas.fill(
        np.concatenate([cloth, points((1.6, 2.2), (-1.6, 2.2))]), COLOUR[scene.clothes_colour], edge=0.6, flat=1
    )
    for side in SIDES:
        x = side * 0.735 * identity.width
        canvas.fill(ellipse(x, 0.10, 0.10, 0.19), darker(skin, 0.88), edge=0.7, flat=0.8)
        canvas.fill(ellipse(x + side * 0.01, 0.11, 0.05, 0.11), darker(skin, 0.74), ink=0.2, flat=0.8)
        if identity.earrings:
            canvas.fill(ellipse(x, 0.31, 0.045, 0.045, 10), (236, 206, 120), edge=0.6, flat=0.8)


def begin_skin(canvas: Canvas, identity: Identity, head: Points) -> None:
    """The flat shape of the face."""
    canvas.fill(head, SKIN[identity.skin], edge=0.9)


def finish_skin(canvas: Canvas, face: Face, medium: Medium, head: Points) -> None:
    """Draws light, blush and folds that were added to the canvas."""
    base, shade = SKIN[face.identity.skin], canvas.soft() + _light(canvas, face.scene)
    photo = medium == "photo"
    painted = _shaded(base, shade, canvas.soft("blush")) if photo else _stepped(base, shade, canvas.frame.side)
    canvas.paste(painted, canvas.mask(canvas.frame(head)))
    canvas.emboss()


def _shaded(base: Rgb, shade: Plane, blush: Plane) -> Image.Image:
    """Skin with soft shading, at low resolution; shadows are reddish."""
    rgb = np.array(base, np.float64) * (1 + shade[..., None] * (0.9, 1.0, 1.08))
    rgb += np.maximum(shade, 0)[..., None] * (14, 13, 12)
    rgb += blush[..., None] * (24, -14, -9)
    return Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8))


def _stepped(base: Rgb, shade: Plane, side: int) -> Image.Image:
    """Skin in four flat tones, at `side` pixels."""
    levels = Image.fromarray(np.clip(128 + 160 * shade, 0, 255).astype(np.uint8))
    levels = levels.resize((side, side), Image.Resampling.BICUBIC)
    shadow = (60, 20, 40)
    tones = (mix(base, shadow, 0.30), mix(base, shadow, 0.12), base, mix(base, (255, 250, 240), 0.2))
    return coloured(levels, np.array(tones, np.uint8)[_TONE])


def _light(canvas: Canvas, scene: Scene) -> Plane:
    """Directed light on an ellipsoid, with fall-off towards the outline."""
    side, scale = canvas.frame.side, canvas.frame.scale
    centre = canvas.frame(points((0.0, 0.0)))[0]
    place = (np.arange(LOW) + 0.5) * side / LOW
    x = ((place - centre[0]) / scale / 0.8)[None, :]
    y = ((place - centre[1]) / scale / 1.1)[:, None]
    along_x, along_y = _LIGHT[scene.light]
    strength = scene.light_strength
    fall_off = -0.22 * np.clip(x**2 + 0.7 * y**2, 0, 1.5) ** 1.6
    directed = strength * (0.34 * along_x * np.clip(x, -1.2, 1.2) - 0.28 * along_y * np.clip(y, -1.2, 1.2))
    return 0.06 + fall_off + directed


def shape_skin(canvas: Canvas, identity: Identity, muscles: Muscles) -> None:
    """Soft shapes of the resting face, and folds of age."""
    age = identity.age
    canvas.blob(0, -0.56, 0.32, 0.14, 0.07)
    canvas.blob(0, 0.89 + muscles.jaw(), 0.12, 0.08, 0.06)
    canvas.blob(0, 0.77 + muscles.jaw(), 0.16, 0.04, -0.08)
    for side in SIDES:
        canvas.blob(side * 0.33, -0.16, 0.17, 0.10, -0.11)
        canvas.blob(side * 0.42, 0.27, 0.14, 0.11, 0.08)
        canvas.blob(side * 0.60, 0.45, 0.12, 0.25, -0.08)
        canvas.blob(side * 0.45, 0.30, 0.15, 0.12, 0.32, "blush")
        canvas.blob(side * 0.30, 0.10, 0.11, 0.03, -0.05 - 0.06 * age)
        canvas.fold(points((side * 0.22, 0.10), (side * 0.30, 0.135), (side * 0.40, 0.12)), 0.35 * age, 0.02)
    canvas.blob(0, 0.30, 0.09, 0.08, 0.3, "blush")
    for row in range(3):
        y = -0.54 - 0.085 * row
        line = points((-0.38, y + 0.02), (-0.15, y), (0.15, y), (0.38, y + 0.02))
        canvas.fold(line, 0.34 * max(0.0, age - 0.35 - 0.1 * row), 0.018)


def forehead(canvas: Canvas, muscles: Muscles) -> None:
    """Units 1, 2 and 4 on the forehead and between the brows."""
    inner, lower = muscles.mean(1), muscles.mean(4)
    for row in range(3):
        y = -0.53 - 0.09 * row
        fade = 1.0 - 0.22 * row
        arch = 0.05 * inner * muscles.mean(4)
        if inner:
            line = points((-0.24, y + 0.03), (-0.10, y - 0.015 - arch), (0.10, y - 0.015 - arch), (0.24, y + 0.03))
            canvas.fold(line, 0.9 * fade * inner, 0.032)
        for side in SIDES:
            outer = muscles.on(2, side)
            if outer:
                line = points((0.18, y + 0.01), (0.34, y - 0.035), (0.52, y + 0.045))
                canvas.fold(line * (side, 1), 0.85 * fade * outer, 0.032)
    if inner:
        canvas.blob(0, -0.50, 0.12, 0.05, 0.10 * inner)
    if lower:
        for side in SIDES:
            amount = muscles.on(4, side)
            line = points((0.080, -0.45), (0.062, -0.34), (0.085, -0.22)) * (side, 1)
            canvas.fold(line, amount, 0.036)
            canvas.blob(side * 0.17, -0.40, 0.09, 0.06, -0.16 * amount)
        canvas.fold(points((0.0, -0.43), (-0.01, -0.34), (0.0, -0.26)), 0.5 * lower, 0.026)
        canvas.blob(0, -0.38, 0.045, 0.09, 0.14 * lower)


def cheeks(canvas: Canvas, identity: Identity, muscles: Muscles, corners: Points) -> None:
    """Unit 6 around the eyes, and folds between nose and mouth (6, 9, 10, 12, 14, 15, 20).

    Args:
      corners: left and right corner of the mouth, float64[2, 2].
    """
    for side, corner in zip(SIDES, corners, strict=True):
        raised, smile = muscles.on(6, side), muscles.on(12, side)
        nose, lip = muscles.on(9, side), muscles.on(10, side)
        eye = side * 0.34 * identity.eye_distance
        canvas.blob(side * 0.44, 0.27 - 0.06 * raised, 0.12, 0.09, 0.12 * raised + 0.10 * smile)
        canvas.blob(side * 0.44, 0.27 - 0.06 * raised, 0.13, 0.10, 0.35 * raised + 0.25 * smile, "blush")
        canvas.blob(side * 0.44, 0.45, 0.13, 0.04, -0.10 * raised - 0.06 * smile)
        if raised:
            below = points((0.20, 0.045), (0.32, 0.13), (0.46, 0.125), (0.57, 0.05))
            below[:, 0] += abs(eye) - 0.34
            canvas.fold(below * (side, 1), 0.85 * raised, 0.032)
            for row, (dy, slope) in enumerate(((-0.085, -0.10), (-0.02, 0.0), (0.045, 0.09))):
                start = abs(eye) + 0.225 + 0.01 * (row == 1)
                feet = points((start, dy - 0.01), (start + 0.07, dy + 0.55 * slope), (start + 0.145, dy + slope))
                canvas.fold(feet * (side, 1), 0.95 * raised, 0.028)
        _nasolabial(canvas, identity, muscles, side, corner)
        if lip:
            canvas.blob(side * 0.24, 0.39, 0.05, 0.07, 0.13 * lip)
        canvas.blob(side * 0.22, 0.22, 0.06, 0.06, 0.10 * nose)
    for row in range(3):
        amount = muscles.mean(9)
        y = -0.16 + 0.075 * row
        line = points((-0.115, y + 0.045), (-0.05, y), (0.05, y), (0.115, y + 0.045))
        canvas.fold(line, amount * (1 - 0.12 * row), 0.03, lift=0.08)
    for side in SIDES:
        amount = muscles.on(9, side)
        for row in range(2):
            line = points((0.13, -0.05 + 0.08 * row), (0.17, 0.0 + 0.08 * row), (0.19, 0.07 + 0.08 * row))
            canvas.fold(line * (side, 1), 0.8 * amount, 0.026)


def _nasolabial(canvas: Canvas, identity: Identity, muscles: Muscles, side: int, corner: Points) -> None:
    smile, lip, nose = muscles.on(12, side), muscles.on(10, side), muscles.on(9, side)
    down, stretch, dimple = muscles.on(15, side), muscles.on(20, side), muscles.on(14, side)
    amount = 0.16 + 0.22 * identity.age
    amount = max(amount, 0.75 * smile, 0.85 * lip, 0.7 * nose, 0.4 * muscles.on(6, side), 0.35 * stretch, 0.4 * down)
    x, y = abs(float(corner[0])), float(corner[1])
    top = 0.30 - 0.05 * max(nose, lip)
    out = x + 0.09 + 0.02 * smile
    bend = 0.06 * lip + 0.03 * nose + 0.02
    line = points((0.16 + 0.01 * lip, top), (0.5 * (0.16 + out) + bend, top + 0.40 * (y - top)), (out, y - 0.02))
    if not smile:
        line = np.concatenate([line, points((out - 0.01 + 0.02 * down, y + 0.06 + 0.05 * down))])
    canvas.fold(line * (side, 1), amount, 0.026 + 0.014 * max(smile, lip))
    if down:
        below = points((x + 0.05, y + 0.02), (x + 0.085, y + 0.10), (x + 0.07, y + 0.20))
        canvas.fold(below * (side, 1), 0.9 * down, 0.03)
        canvas.blob(side * (x + 0.0), y + 0.11, 0.06, 0.06, 0.09 * down)
    if dimple:
        near = x + 0.075
        pit = points((near - 0.01, y - 0.095), (near + 0.03, y), (near - 0.01, y + 0.095))
        canvas.fold(pit * (side, 1), dimple, 0.044)
        canvas.blob(side * (near + 0.10), y, 0.05, 0.08, 0.12 * dimple)
    if stretch:
        for row in range(2):
            far = x + 0.07 + 0.055 * row
            line = points((far, y - 0.06), (far + 0.02, y + 0.03), (far, y + 0.12))
            canvas.fold(line * (side, 1), 0.5 * stretch, 0.028)


def chin(canvas: Canvas, muscles: Muscles) -> None:
    """Unit 17: the chin is pushed up and puckers."""
    amount = muscles.mean(17)
    if not amount:
        return
    drop = muscles.jaw()
    canvas.fold(points((-0.17, 0.80 + drop), (0.0, 0.755 + drop), (0.17, 0.80 + drop)), amount, 0.034)
    canvas.blob(0, 0.88 + drop, 0.11, 0.07, 0.12 * amount)
    for number in range(9):
        angle = 2.4 * number
        radius = 0.035 * math.sqrt(number)
        x, y = 1.25 * radius * math.cos(angle), 0.885 + drop + 0.8 * radius * math.sin(angle)
        canvas.fold(points((x - 0.025, y + 0.008), (x, y - 0.008), (x + 0.025, y + 0.008)), 0.85 * amount, 0.022)
