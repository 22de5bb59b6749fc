"""The renderer of drawn faces."""

from __future__ import annotations

import numpy as np
from PIL import Image

from mpafer_jax.data.synthface import camera, eyes, hair, head, mouth, surroundings
from mpafer_jax.data.synthface.canvas import Canvas
from mpafer_jax.data.synthface.face import Face
from mpafer_jax.data.synthface.geometry import Frame
from mpafer_jax.data.synthface.muscles import Muscles
from mpafer_jax.data.synthface.styles import Style

MIN_SIZE, MAX_SIZE = 32, 224
_DRAWN = 160  # pixels: least side of a canvas, which is then reduced for antialiasing


def render(face: Face, style: Style, size: int, rng: np.random.Generator) -> Image.Image:
    """Draws a face as RGB of size x size pixels (32 to 224), deterministic given the state of `rng`.

    Args:
      rng: for background details, paper, exposure, noise and the like.
    """
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise ValueError(f"an image's side must be {MIN_SIZE} to {MAX_SIZE} pixels, found {size}")
    identity, muscles = face.identity, Muscles(face.units)
    canvas = Canvas(Frame(face.scene, size * max(2, -(-_DRAWN // size))))
    lips = mouth.shape_lips(identity, muscles)
    outline = head.outline(identity, muscles)

    surroundings.draw_background(canvas, face, rng)
    hair.draw_back(canvas, identity)
    head.draw_behind(canvas, face)
    head.begin_skin(canvas, identity, outline)
    head.shape_skin(canvas, identity, muscles)
    head.forehead(canvas, muscles)
    head.cheeks(canvas, identity, muscles, lips.corners)
    head.chin(canvas, muscles)
    eyes.fold_lower_lid(canvas, identity, muscles)
    mouth.shape_nose_skin(canvas, identity, face.scene, muscles)
    mouth.shape_mouth_skin(canvas, muscles, lips)
    head.finish_skin(canvas, face, style.medium, outline)

    hair.draw_freckles(canvas, identity)
    mouth.draw_nose(canvas, identity, muscles)
    hair.draw_beard(canvas, identity, muscles, lips, outline)
    mouth.draw_mouth(canvas, face, muscles, lips)
    eyes.draw_eyes(canvas, face, muscles)
    eyes.draw_brows(canvas, face, muscles)
    hair.draw_front(canvas, identity)
    if identity.glasses != "none" and face.scene.occlusion != "sunglasses":
        eyes.draw_glasses(canvas, identity, (48, 40, 44))
    surroundings.draw_occlusion(canvas, face)
    return camera.develop(canvas, style, size, rng)
