"""Accuracy on photographs in colour, of models that have seen grey ones: FERPlus' PublicTest, tinted.

    python -m tests.measurements.colours --ferplus=FERPLUS

Each image gets the colour of skin or of light, every pixel with its own luminance, so that nothing but colour is added;
what is brighter than white is cut off. Real photographs have many colours. Prints a row for each colour: accuracy and
UAR with the checkpoint as it is, and with its images left in colour (`config.data.grayscale` False).
"""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np
import numpy.typing as npt

from mpafer_jax.artifacts.loaded import load_model
from mpafer_jax.cli.runner import CHECKPOINT, command, path
from mpafer_jax.evaluation.metrics import from_logits
from mpafer_jax.evaluation.table import markdown
from mpafer_jax.inference import Predictor
from tests.bench import ferplus

# R, G, B of which the ratios count.
COLOURS = {
    "grey, as they are": (128, 128, 128),
    "light skin": (236, 188, 160),
    "tan skin": (200, 140, 105),
    "brown skin": (150, 100, 72),
    "bluish light": (150, 170, 215),
}
_LUMINANCE = np.array([0.299, 0.587, 0.114])


def tinted(images: npt.NDArray[np.uint8], colour: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """Grey images uint8[n, h, w] in a colour, with their luminance: uint8[n, h, w, 3]."""
    ratios = np.array(colour) / (np.array(colour) @ _LUMINANCE)
    return np.clip(np.rint(images[..., None] * ratios), 0, 255).astype(np.uint8)


@command(
    "colours",
    path("--ferplus", required=True, help="folder with FERPlus (docs/datasets.md)"),
    CHECKPOINT,
    called="python -m tests.measurements.colours",
)
def colours(arguments: argparse.Namespace) -> None:
    """Prints a Markdown table of accuracies on photographs in several colours."""
    images, labels = ferplus.public_test(arguments.ferplus)
    as_it_is = Predictor.from_checkpoint(arguments.checkpoint)
    experiment, params, description, _ = load_model(arguments.checkpoint, "best", "")
    in_colour = Predictor(
        experiment,
        params,
        as_it_is.text_features,
        trained_on=description.trained_on,
        forward=dataclasses.replace(as_it_is.forward, grayscale=False),
    )
    lines: list[list[str]] = []
    for name, colour in COLOURS.items():
        pixels, cells = tinted(images, colour), list[str]()
        for predictor in (as_it_is, in_colour):
            logits = np.stack([answer.logits for answer in predictor.predict_batch(pixels)])
            found = from_logits(logits, labels, predictor.class_names)
            cells += [f"{100 * found.war:.1f}", f"{100 * found.uar:.1f}"]
        lines.append([name, *cells])
    header = ("photographs", "accuracy (WAR), %", "UAR, %", "left in colour: WAR, %", "UAR, %")
    print(markdown(header, lines), end="")


if __name__ == "__main__":
    colours.start()
