"""How well faces are followed and expressions smoothed in a drawn video of two people who cross.

    python -m tests.measurements.tracks RUN

RUN is a workdir of configs/quickstart.py. Prints faces found, exchanged tracks, and the accuracy of the raw and of the
smooth class of faces whose expression is not just changing.
"""

import sys

import numpy as np

from mpafer_jax.faces.finder import FaceFinder
from mpafer_jax.inference import Prediction, Predictor
from mpafer_jax.inference.inputs import InputImage
from mpafer_jax.inference.results import Source
from mpafer_jax.inference.temporal import smooth_results
from tests.faces import crossing

_WINDOW = 1.0  # seconds


def main(run: str) -> None:
    frames = list(crossing.frames(height=360))
    images = (
        InputImage(Source("drawn", number, number, round(frame.seconds, 3)), frame.pixels)
        for number, frame in enumerate(frames)
    )
    results = Predictor.from_checkpoint(run).stream(images, faces=FaceFinder(which="all"))
    tracks, exchanged = dict[int, int | None](), 0
    right = list[tuple[bool, bool]]()
    found = [result for result in smooth_results(results, _WINDOW) if isinstance(result, Prediction)]
    for result in found:
        face, people = result.face, frames[result.source.index].people
        middle = (face.left + face.width / 2, face.top + face.height / 2)
        number = int(np.argmin([np.hypot(person.x - middle[0], person.y - middle[1]) for person in people]))
        exchanged += tracks.get(number, result.track) != result.track
        tracks[number] = result.track
        if expression := people[number].expression:
            right.append((result.expression == expression, result.smooth[0] == expression))
    raw, smooth = 100 * np.mean(right, axis=0)
    print(f"{len(found)} of {2 * len(frames)} faces found, {exchanged} exchanged tracks")
    print(f"accuracy on {len(right)} faces: {raw:.1f}%, smooth over {_WINDOW:g} s {smooth:.1f}%")


if __name__ == "__main__":
    main(*sys.argv[1:])
