"""Backgrounds and occlusions."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from mpafer_jax.data.synthface.canvas import Canvas, darker, mix
from mpafer_jax.data.synthface.eyes import draw_glasses
from mpafer_jax.data.synthface.face import COLOUR, HAIR, SKIN, Face, Rgb
from mpafer_jax.data.synthface.geometry import ellipse, points, spline

_SMALL = 24  # side of a blurred background before it is enlarged


def draw_background(canvas: Canvas, face: Face, rng: np.random.Generator) -> None:
    """Fills the canvas with the background."""
    scene, side = face.scene, canvas.frame.side
    base = COLOUR[scene.background_colour]
    if scene.background == "plain":
        canvas.colour.paste(base, (0, 0, side, side))
        return
    small = Image.new("RGB", (_SMALL, _SMALL), base)
    draw = ImageDraw.Draw(small)
    match scene.background:
        case "gradient":
            for row in range(_SMALL):
                draw.line(
                    (0, row, _SMALL, row), fill=mix(mix(base, (255, 255, 255), 0.3), darker(base, 0.6), row / _SMALL)
                )
        case "blurred":
            for _ in range(12):
                x, y, radius = rng.uniform(0, _SMALL), rng.uniform(0, _SMALL), rng.uniform(1.5, 6)
                tone = mix(base, (255, 255, 255) if rng.random() < 0.5 else (20, 20, 30), rng.uniform(0.1, 0.5))
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tone)
            small = small.filter(ImageFilter.BoxBlur(1))
        case "stripes":
            for x in range(0, _SMALL, 6):
                draw.rectangle((x, 0, x + 2, _SMALL), fill=darker(base, 0.75))
    canvas.colour.paste(small.resize((side, side), Image.Resampling.BICUBIC))


def draw_occlusion(canvas: Canvas, face: Face) -> None:
    """Draws the occluding object, if any."""
    scene, identity = face.scene, face.identity
    x, y = scene.occlusion_x, scene.occlusion_y
    colour = COLOUR[scene.clothes_colour]
    match scene.occlusion:
        case "none":
            pass
        case "sunglasses":
            draw_glasses(canvas, identity, (30, 30, 34), dark=True)
        case "scarf":
            top = spline(points((-0.85, 0.36), (-0.4, 0.36), (0.0, 0.22), (0.4, 0.36), (0.85, 0.36)))
            canvas.fill(np.concatenate([top, points((1.0, 1.4), (-1.0, 1.4))]), colour, ink=0.12, edge=0.9, flat=0.3)
            for row in range(3):
                fold = spline(points((-0.8, 0.5 + 0.2 * row), (0.0, 0.42 + 0.22 * row), (0.8, 0.5 + 0.2 * row)))
                canvas.stroke(fold, 0.03, darker(colour, 0.7), ink=0.7)
        case "hair":
            hair = HAIR[identity.hair_colour]
            side = 1 if x > 0 else -1
            for number in range(3):
                shift = 0.12 * number
                strand = points(
                    (0.1 * side, -1.15),
                    ((0.2 + shift) * side, -0.5),
                    ((0.3 + shift) * side, 0.0),
                    ((0.42 + shift) * side, 0.5),
                )
                canvas.stroke(
                    spline(strand),
                    0.15,
                    mix(hair, darker(hair, 0.7), 0.5 * (number % 2)),
                    ink=0.55,
                    ends=(0.5, 0.1),
                    lift=0.1,
                )
        case "cup":
            cx, cy = 0.35 * x, 0.62 + 0.12 * y
            body = points((cx - 0.27, cy - 0.22), (cx + 0.27, cy - 0.22), (cx + 0.22, cy + 0.6), (cx - 0.22, cy + 0.6))
            canvas.fill(body, colour, ink=0.1, edge=1.0, lift=0.2)
            canvas.fill(
                ellipse(cx, cy - 0.22, 0.27, 0.06), mix(colour, (255, 255, 255), 0.4), ink=0.05, edge=1.0, lift=0.2
            )
            _draw_fingers(canvas, SKIN[identity.skin], cx + 0.22, cy + 0.25, math.pi)
        case "hand":
            side = 1 if x > 0 else -1
            _draw_fingers(
                canvas, SKIN[identity.skin], 0.50 * side + 0.1 * x, 0.42 + 0.42 * y, math.pi if side > 0 else 0.0, 1.5
            )
        case "bar":
            angle = math.pi * (x + y)
            along = np.array([math.cos(angle), math.sin(angle)])
            across = np.array([-along[1], along[0]])
            centre = np.array([0.55 * x, 0.1 + 0.6 * y])
            corners = ((2, 0.13), (-2, 0.13), (-2, -0.13), (2, -0.13))
            body = np.stack([centre + far * along + wide * across for far, wide in corners])
            canvas.fill(body, colour, ink=0.3, edge=1.0, flat=1)


def _draw_fingers(canvas: Canvas, skin: Rgb, x: float, y: float, angle: float, size: float = 1.0) -> None:
    """Four fingers from the side, pointing along `angle`."""
    along = np.array([math.cos(angle), math.sin(angle)])
    across = np.array([-along[1], along[0]]) * (1 if along[0] >= 0 else -1)
    tone = darker(skin, 0.94)
    palm = np.array([x, y]) - 0.45 * size * along
    for number in range(4):
        root = palm + across * 0.105 * size * (number - 1.5)
        length = (0.62, 0.70, 0.68, 0.56)[number] * size
        line = np.stack([root - 0.6 * along, root, root + 0.5 * length * along, root + length * along])
        canvas.stroke(spline(line), 0.135 * size, darker(tone, 0.62), ink=1.0, ends=(0.95, 0.75), lift=0.2)
        canvas.stroke(spline(line), 0.11 * size, tone, ink=0.0, ends=(0.95, 0.75), lift=0.2)
