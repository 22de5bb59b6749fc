"""Faces of FERPlus' PublicTest in larger images, predicted by the command that users run."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mpafer_jax.cli.runner import CHECKPOINT, command, number, path
from mpafer_jax.config.expressions import canonical_name
from mpafer_jax.evaluation.groups import Group
from mpafer_jax.evaluation.table import markdown, with_interval
from mpafer_jax.faces.detect import overlap
from mpafer_jax.runtime import files
from mpafer_jax.runtime.errors import UserError
from tests.bench import ferplus
from tests.faces.scenes import located, pasted

Row = dict[str, Any]  # a result's `to_dict`


def predict(checkpoint: str, folder: Path, out: Path, *options: str) -> tuple[list[Row], float]:
    """Runs the command without a network.

    Returns:
      Results in the order of the files' names, one for each image, and the seconds of the whole command.

    Raises:
      UserError: it fails; with its message.
    """
    words = [
        sys.executable,
        "-m",
        "mpafer_jax.predict",
        str(folder),
        f"--checkpoint={checkpoint}",
        f"--out={out}",
        *options,
    ]
    started = time.perf_counter()
    done = subprocess.run(words, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stderr=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise UserError(f"{' '.join(words)} ends with exit code {done.returncode}:\n{done.stderr}")
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    return sorted(rows, key=lambda row: row["file"]), seconds


def scored(title: str, rows: list[Row], labels: np.ndarray) -> Group:
    """Accuracy and recall of results, of which those without an answer are wrong."""
    position = {canonical_name(name): label for label, name in enumerate(ferplus.CLASS_NAMES)}
    answers = [position.get(canonical_name(row.get("expression", "")), -1) for row in rows]
    return Group.of(title, np.array(answers), labels, ferplus.CLASS_NAMES)


def measure(checkpoint: str, folder: Path, number: int, seed: int) -> Row:
    """All numbers of the measurement."""
    images, labels = ferplus.public_test(folder)
    chosen = np.random.default_rng(seed).choice(len(images), min(number, len(images)), replace=False)
    faces, labels = [Image.fromarray(image).convert("RGB") for image in images[chosen]], labels[chosen]
    scenes = [pasted(face, row) for row, face in enumerate(faces)]
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for kind, shown in (("scenes", [scene.image for scene in scenes]), ("crops", faces)):
            (place / kind).mkdir()
            for row, image in enumerate(shown):
                image.save(place / kind / f"{row:05d}.png")
        rows, seconds = predict(checkpoint, place / "scenes", place / "scenes.jsonl", "--faces=detect")
        crops, _ = predict(checkpoint, place / "crops", place / "crops.jsonl", "--faces=none")
    boxes = [
        (face["left"], face["top"], face["width"], face["height"]) if (face := row.get("face")) else None
        for row in rows
    ]
    pairs = [(box, scene.box) for box, scene in zip(boxes, scenes, strict=True)]
    at_place = np.array([box is not None and overlap(box, truth) >= 0.5 for box, truth in pairs])
    answered = [row for row in rows if "expression" in row]
    groups = [scored("all; no answer counts as wrong", rows, labels)]
    if at_place.any():
        right_place = [row for row, inside in zip(rows, at_place, strict=True) if inside]
        groups.insert(0, scored("faces at their place (IoU 0.5)", right_place, labels[at_place]))
    groups.append(scored("the same faces, cropped by the dataset", crops, labels))
    return {
        "images": len(rows),
        "seed": seed,
        "iou": int(at_place.sum()),
        "located": sum(box is not None and located(box, truth) for box, truth in pairs),
        "status": dict(Counter(row["status"] for row in rows)),
        "unlike": sum((row["unlike"] or 0) > 1 for row in answered) / max(1, len(answered)),
        "unlike_crops": sum((row["unlike"] or 0) > 1 for row in crops) / len(crops),
        "seconds": seconds,
        "images_per_second": len(rows) / seconds,
        "groups": [dataclasses.asdict(group) for group in groups],
    }


def render(measured: Row) -> str:
    """Markdown: what was detected, and a table of accuracies."""

    def share(group: Row, metric: str) -> str:
        return with_interval(group[metric], group[f"{metric}_interval"])

    lines = [[g["value"], str(g["count"]), share(g, "war"), share(g, "uar")] for g in measured["groups"]]
    classes = ", ".join(f"{name} {count}" for name, count in measured["groups"][-1]["support"].items() if count)
    return (
        f"Of {measured['images']} faces, {measured['iou']} were detected with an intersection over union of at least "
        f"0.5 and {measured['located']} with the box's centre in the face; no face in "
        f"{measured['status'].get('no_face', 0)} images. {100 * measured['unlike']:.1f}% of the answers are unlike the "
        f"training images (of the dataset's own crops {100 * measured['unlike_crops']:.1f}%). The command took "
        f"{measured['seconds']:.1f} s, {measured['images_per_second']:.1f} images a second, with its start.\n\n"
        f"{markdown(('', 'images', 'accuracy (WAR), % (95% interval)', 'UAR, % (95% interval)'), lines)}\n"
        f"Classes, as drawn by seed {measured['seed']}: {classes}.\n"
    )


@command(
    "photographs",
    path("--ferplus", required=True, help="folder with FERPlus (docs/datasets.md)"),
    CHECKPOINT,
    number("--images", 1, default=200, help="how many faces (default 200)"),
    number("--seed", 0, default=0, help="of their choice"),
    path("--out", required=True, help="folder for photographs.md and photographs.json"),
    called="python -m tests.measurements.photographs",
)
def photographs(arguments: argparse.Namespace) -> None:
    """Predicts faces of FERPlus' PublicTest in larger images, with detection, by the command that users run.

        python -m tests.measurements.photographs --ferplus=FERPLUS --checkpoint=RUN --out=measured

    Each image is 640x480 with one face of 90 to 200 pixels, enlarged from 48, at a random place on grey
    (tests/faces/scenes.py). `python -m mpafer_jax.predict` runs on a temporary folder of them, without a network.
    """
    measured = measure(arguments.checkpoint, arguments.ferplus, arguments.images, arguments.seed)
    files.write_json(arguments.out / "photographs.json", measured)
    files.write_text(arguments.out / "photographs.md", text := render(measured))
    print(text)


if __name__ == "__main__":
    photographs.start()
