"""Heat maps of faces of FERPlus' PublicTest, to look at. They show faces that must not be published."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from mpafer_jax.cli.runner import CHECKPOINT, command, number, path
from mpafer_jax.config.expressions import map_classes
from mpafer_jax.data.contact_sheet import Tile, pairs_sheet
from mpafer_jax.data.records import ImageFile
from mpafer_jax.inference import Predictor
from mpafer_jax.inference.attribution import Explainer
from mpafer_jax.inference.attribution_sheet import HeatmapFolder, class_tiles
from mpafer_jax.inference.inputs import InputImage
from mpafer_jax.inference.predictor import checked
from mpafer_jax.inference.results import Source
from mpafer_jax.runtime import progress
from tests.bench import ferplus

_TILE = 160


def choose(labels: np.ndarray, right: np.ndarray, number: int, seed: int) -> list[int]:
    """Positions drawn by seed: of each class one that is right, then one that is wrong, and so on, up to a number."""
    rng = np.random.default_rng(seed)
    turns = rng.permutation(len(ferplus.CLASS_NAMES)).tolist()
    waiting = {(label, kind): [] for kind in (True, False) for label in turns}
    for row in rng.permutation(len(labels)).tolist():
        waiting[int(labels[row]), bool(right[row])].append(row)
    chosen: list[int] = []
    while len(chosen) < number and any(waiting.values()):
        for rows in waiting.values():
            chosen += [rows.pop()] if rows and len(chosen) < number else []
    return sorted(chosen, key=lambda row: (labels[row], not right[row]))


@command(
    "explanations",
    path("--ferplus", required=True, help="folder with FERPlus (docs/datasets.md)"),
    CHECKPOINT,
    number("--faces", 1, default=12, help="how many are explained (default 12)"),
    number("--images", 0, default=0, help="to try it: choose among so many (default 0, all)"),
    number("--seed", 0, default=0, help="of the choice"),
    path("--out", required=True, help="folder for the heat maps and index.png"),
    called="python -m tests.measurements.explanations",
)
def explanations(arguments: argparse.Namespace) -> None:
    """Explains a few faces of FERPlus' PublicTest of all classes, right and wrong ones.

        python -m tests.measurements.explanations --ferplus=FERPLUS --checkpoint=RUN --out=explained

    Writes what `--heatmaps` writes, and `index.png`: each face with its label, beside the heat map of the predicted
    class. FERPlus' images are not to be published; keep the folder to yourself.
    """
    faces, labels = ferplus.public_test(arguments.ferplus)
    if arguments.images:
        few = np.random.default_rng(arguments.seed).permutation(len(faces))[: arguments.images]
        faces, labels = faces[few], labels[few]
    predictor = Predictor.from_checkpoint(arguments.checkpoint, calibrated=None)
    images = [Image.fromarray(face).convert("RGB") for face in faces]
    results = [checked(result) for result in progress.track(predictor.stream(images), "predicting", len(images))]
    classes = map_classes(predictor.class_names, ferplus.CLASS_NAMES)
    right = np.array([classes[result.top_index] for result in results]) == labels
    chosen = choose(labels, right, arguments.faces, arguments.seed)
    explainer = Explainer(predictor)
    folder = HeatmapFolder(arguments.out, explainer)
    pairs: list[tuple[Tile, Tile]] = []
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        named = (InputImage(Source(f"{number:02d}", number), images[row]) for number, row in enumerate(chosen))
        for row, result in zip(chosen, predictor.stream(named, keep_pixels=True), strict=True):
            prediction = checked(result)
            folder(prediction)
            (explanation,) = explainer.explain([prediction])
            shown = {"face": images[row], "heat": class_tiles(explanation)[prediction.expression]}
            for kind, image in shown.items():
                image.save(place / f"{row}_{kind}.png")
            truth, answer = ferplus.CLASS_NAMES[labels[row]], f"{prediction.expression}, {prediction.confidence:.0%}"
            first, second = (ImageFile(place / f"{row}_{kind}.png") for kind in shown)
            pairs.append((Tile(first, f"labelled {truth}"), Tile(second, f"predicted {answer}")))
        pairs_sheet(pairs, _TILE, columns=3).save(arguments.out / "index.png")
    print(f"{len(chosen)} of {len(images)} faces, {int(right[chosen].sum())} of them right: {arguments.out}")


if __name__ == "__main__":
    explanations.start()
