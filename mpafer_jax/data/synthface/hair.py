"""Hair, beards and freckles."""

from __future__ import annotations

import numpy as np
from PIL import ImageFilter

from mpafer_jax.data.synthface.canvas import Canvas, darker, mix
from mpafer_jax.data.synthface.face import HAIR, SKIN, Identity
from mpafer_jax.data.synthface.geometry import Points, ellipse, points, spline
from mpafer_jax.data.synthface.mouth import Lips
from mpafer_jax.data.synthface.muscles import SIDES, Muscles


def draw_back(canvas: Canvas, identity: Identity) -> None:
    """Hair behind the head."""
    colour = darker(HAIR[identity.hair_colour], 0.8)
    w = identity.width
    if identity.hair == "long":
        right = [(0.5, -1.04), (0.84 * w, -0.71), (0.95 * w, -0.2), (0.93 * w, 0.5), (0.98 * w, 1.1), (0.7, 1.5)]
        left = [(-x, y) for x, y in right[::-1]]
        canvas.fill(spline(points((0.0, -1.10), *right, *left), closed=True), colour, ink=0.25, edge=0.9, flat=1)
    elif identity.hair == "curly":
        for x, y, radius in _CURLS:
            canvas.fill(ellipse(x * w, y, radius, radius, 14), colour, ink=0.3, edge=0.9, flat=1)
    elif identity.hair == "ponytail":
        tail = [(0.55, -0.1), (0.84, 0.1), (0.96, 0.5), (0.86, 1.0), (0.66, 1.2), (0.62, 0.7)]
        canvas.fill(spline(points(*tail), closed=True), colour, ink=0.3, edge=0.9, flat=1)
    if identity.hair in ("short", "fringe", "ponytail"):
        canvas.fill(ellipse(0.0, -0.44, 0.77 * w, 0.60, 28), colour, ink=0.3, edge=0.9, flat=1)


_CURLS = tuple(
    (float(x), float(y), float(r))
    for x, y, r in zip(
        [-0.80, -0.78, -0.84, -0.68, -0.42, -0.12, 0.20, 0.50, 0.72, 0.86, 0.87, 0.78],
        [0.20, -0.12, -0.44, -0.70, -0.88, -0.97, -0.96, -0.86, -0.68, -0.42, -0.10, 0.22],
        [0.17, 0.20, 0.23, 0.25, 0.26, 0.26, 0.27, 0.25, 0.24, 0.22, 0.20, 0.17],
        strict=True,
    )
)


def _hairline(identity: Identity) -> Points:
    """The lower edge of the hair on the forehead, from left to right."""
    w = identity.width
    match identity.hair:
        case "fringe":
            left = [(-0.73 * w, -0.05), (-0.66, -0.40), (-0.40, -0.51), (-0.1, -0.55)]
            return points(*left, (0.25, -0.52), (0.52, -0.46), (0.67, -0.37), (0.73 * w, -0.05))
        case "long":
            return _symmetric((0.0, -0.83), (0.22, -0.76), (0.56, -0.51), (0.70, -0.15), (0.79 * w, 0.45))
        case "curly":
            return _symmetric((0.0, -0.71), (0.40, -0.66), (0.65, -0.48), (0.73 * w, -0.15))
        case "ponytail":
            return _symmetric((0.0, -0.79), (0.35, -0.74), (0.63, -0.51), (0.73 * w, -0.12))
        case _:
            recede = 0.06 * identity.age
            left = [(-0.74 * w, -0.05), (-0.69, -0.40), (-0.52, -0.64 - recede), (-0.15, -0.73 - recede)]
            return points(*left, (0.30, -0.71 - recede), (0.58, -0.61 - recede), (0.69, -0.40), (0.74 * w, -0.05))


def _symmetric(middle: tuple[float, float], *right: tuple[float, float]) -> Points:
    return points(*((-x, y) for x, y in right[::-1]), middle, *right)


def draw_front(canvas: Canvas, identity: Identity) -> None:
    """Hair on the head."""
    if identity.hair == "bald":
        canvas.fill(ellipse(-0.18, -0.81, 0.14, 0.06), mix(SKIN[identity.skin], (255, 255, 255), 0.18))
        return
    colour = HAIR[identity.hair_colour]
    w = identity.width
    lower = spline(_hairline(identity))
    start, end = lower[0], lower[-1]
    crown = [(end[0] + 0.06, end[1] - 0.03), (0.82 * w, -0.46), (0.66 * w, -0.86), (0.30, -1.04), (0.0, -1.07)]
    crown += [(-0.30, -1.04), (-0.66 * w, -0.86), (-0.82 * w, -0.46), (start[0] - 0.06, start[1] - 0.03)]
    canvas.fill(np.concatenate([lower, spline(points(*crown))]), colour, ink=0.22, edge=0.9, flat=0.6)
    light, shade = mix(colour, (255, 244, 225), 0.22), darker(colour, 0.72)
    if identity.hair == "curly":
        for number, (x, y, radius) in enumerate(_CURLS[2:-2]):
            tone = (light, shade, colour)[number % 3]
            canvas.fill(
                ellipse(0.86 * x * w, 0.86 * y, 0.7 * radius, 0.7 * radius, 12), tone, ink=0.2, edge=0.6, flat=0.6
            )
        return
    for number in range(7):
        share = -0.9 + 0.3 * number
        x, y = 0.42 * share, -1.01 + 0.1 * share**2
        foot_x, foot_y = lower[int((share + 1) / 2 * (len(lower) - 1))].tolist()
        middle = ((x + foot_x) / 2 + 0.16 * share, (y + foot_y) / 2 - 0.06)
        canvas.stroke(
            spline(points((x, y), middle, (foot_x, foot_y))), 0.05, light if number % 2 else shade, ink=0.5, flat=0.6
        )


def draw_freckles(canvas: Canvas, identity: Identity) -> None:
    """Freckles on nose and cheeks."""
    if not identity.freckles:
        return
    colour = mix(SKIN[identity.skin], (150, 80, 40), 0.45)
    for side in SIDES:
        for number in range(9):
            angle, radius = 2.4 * number, 0.055 * number**0.5
            x, y = 0.33 + 1.1 * radius * np.cos(angle), 0.24 + 0.7 * radius * np.sin(angle)
            canvas.fill(ellipse(side * float(x), float(y), 0.013, 0.013, 6), colour, ink=0.25)


def draw_beard(canvas: Canvas, identity: Identity, muscles: Muscles, lips: Lips, head: Points) -> None:
    """The beard; moves with lips and jaw and hides folds."""
    kind = identity.beard
    if kind == "none":
        return
    hair = darker(HAIR[identity.hair_colour], 0.92)
    skin = SKIN[identity.skin]
    if kind in ("full", "stubble"):
        lower = head[head[:, 1] > 0.18]
        order = np.argsort(np.arctan2(lower[:, 0], lower[:, 1] - 0.3))[::-1]
        edge = lower[order]  # along the jaw from the right cheek to the left
        corners = lips.corners
        inner = points(
            (edge[-1][0] + 0.12, edge[-1][1] + 0.12),
            (corners[0][0] - 0.12, corners[0][1] - 0.06),
            (-0.16, float(lips.top[12]) - 0.10),
            (0.0, float(lips.top[12]) - 0.075),
            (0.16, float(lips.top[12]) - 0.10),
            (corners[1][0] + 0.12, corners[1][1] - 0.06),
            (edge[0][0] - 0.12, edge[0][1] + 0.12),
        )
        shape = np.concatenate([edge, spline(inner)])
        if kind == "full":
            canvas.fill(shape, hair, ink=0.3, edge=0.4)
            for x in np.linspace(-0.42, 0.42, 8):
                y = 0.80 - 0.25 * abs(x) + muscles.jaw()
                strand = points((float(x), y - 0.08), (0.97 * float(x), y), (0.9 * float(x), y + 0.10))
                canvas.stroke(strand, 0.03, darker(hair, 0.86), ink=0.5)
        else:
            mask = canvas.mask(canvas.frame(shape), strength=0.28)
            canvas.paste(mix(hair, (40, 44, 52), 0.5), mask.filter(ImageFilter.GaussianBlur(0.02 * canvas.frame.side)))
            return
    if kind in ("moustache", "full", "goatee"):
        top = float(lips.top[12])
        for side in SIDES:
            corner = lips.corners[(side + 1) // 2]
            line = points(
                (0.0, top - 0.045),
                (side * 0.15, top - 0.045),
                (float(corner[0]) + side * 0.02, 0.5 * float(corner[1]) + 0.5 * top),
            )
            canvas.stroke(spline(line), 0.11, mix(hair, skin, 0.06), ink=0.45, ends=(0.75, 0.3), lift=0.03)
    if kind == "goatee":
        y = float(lips.bottom[12]) + 0.06
        low = float(head[:, 1].max())
        canvas.fill(
            spline(points((-0.16, y), (0.16, y), (0.15, low - 0.06), (0.0, low), (-0.15, low - 0.06)), closed=True),
            hair,
            ink=0.4,
            edge=0.4,
        )
