"""The numbers of a checkpoint's card: accuracy, calibration and faithful heat maps on FERPlus' PublicTest."""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mpafer_jax.artifacts import checkpoints
from mpafer_jax.artifacts.confidence import FILE, HOW_TO_MAKE
from mpafer_jax.artifacts.description import Description
from mpafer_jax.artifacts.run_dir import EVALUATION_PREDICTIONS
from mpafer_jax.backbones.files import find_files
from mpafer_jax.cli.runner import CHECKPOINT, command, number, path
from mpafer_jax.config.data_section import DataSection
from mpafer_jax.config.schema import Config, EvalSection
from mpafer_jax.data import near_duplicates
from mpafer_jax.data.inspection import Inspected, inspect_all, workers
from mpafer_jax.data.readers import ferplus
from mpafer_jax.data.records import SourceIndex
from mpafer_jax.evaluation.groups import Group
from mpafer_jax.evaluation.predictions import Predictions
from mpafer_jax.evaluation.statistics import wilson
from mpafer_jax.evaluation.table import markdown, with_interval
from mpafer_jax.inference import Predictor, faithfulness
from mpafer_jax.jobs.evaluate import evaluate_checkpoint
from mpafer_jax.runtime import files
from mpafer_jax.runtime.errors import UserError

PUBLIC_TEST = "validation"  # its name as a split


def data_of(description: Description, folder: Path, prepared: Path, per_class: int) -> DataSection:
    """The data of a checkpoint's training, with PublicTest as test.

    Raises:
      UserError: it was trained on another dataset, or PublicTest trained or chose it.
    """
    trained = description.config["data"]
    used = {*trained["train_splits"], trained["validation_split"]}
    if trained["dataset"] != "ferplus" or PUBLIC_TEST in used or description.config["eval"]["select_on_test_split"]:
        raise UserError(
            f"the checkpoint was trained on {', '.join(trained['train_splits'])} of {trained['dataset']} and chosen on "
            f"{trained['validation_split'] or 'a part of these, or the test split'}; expected one of FERPlus' Training "
            "that PublicTest did not choose: --config.data.validation_split= --config.data.validation_fraction=0.1 "
            "--config.data.test_split=validation"
        )
    changes = {"dir": str(folder), "prepared_dir": str(prepared), "features_dir": "", "test_split": PUBLIC_TEST}
    values = {**DataSection().model_dump(mode="json"), **trained, **changes, "eval_per_class": per_class}
    return DataSection.from_json(json.dumps(values))


def seen_in_training(index: SourceIndex) -> tuple[set[str], set[str]]:
    """Names of PublicTest's images that equal one of Training in all pixels, and of those that nearly do.

    Of all images of Training, with a label or without one.
    """
    listed = [
        (split, record)
        for split in ("train", PUBLIC_TEST)
        for record in (*index.splits[split], *index.left_out.get(split, ()))
    ]
    with workers(computed=False) as pool:
        inspected = inspect_all([record.image for _, record in listed], pool, with_thumbnails=True)
        opened = [(*of, image) for of, image in zip(listed, inspected, strict=True) if isinstance(image, Inspected)]
    hashes = {image.pixel_hash for split, _, image in opened if split == "train"}
    equal = {record.name for split, record, image in opened if split != "train" and image.pixel_hash in hashes}
    near = {
        opened[pair.second][1].name
        for pairs in near_duplicates.find(np.stack([image.thumbnail for *_, image in opened]))
        for pair in pairs
        if opened[pair.first][0] == "train" and opened[pair.second][0] != "train"
    }
    return equal, near - equal


def groups(predictions: Predictions, equal: set[str], near: set[str]) -> list[Group]:
    """Accuracy on all images, and without those that are in Training."""
    answers = predictions.logits.argmax(axis=1)
    is_equal, is_near = (np.array([name in of for name in predictions.names.tolist()], bool) for of in (equal, near))
    members = {
        "all": np.ones_like(is_equal),
        f"without {is_equal.sum()} whose pixels equal an image of Training": ~is_equal,
        f"without {is_near.sum()} near-duplicates too": ~(is_equal | is_near),
    }
    return [
        Group.of(title, answers[inside], predictions.labels[inside], predictions.class_names)
        for title, inside in members.items()
        if inside.any()
    ]


def sizes(description: Description, step: int, checkpoint: str, predictor: Predictor) -> list[dict[str, Any]]:
    """Parameters and bytes of what a prediction loads."""
    clip = find_files(description.config["clip"]["name"], revision=description.config["clip"]["revision"])
    confidence = checkpoints.folder(checkpoint, step) / FILE
    prompts = jax.tree.leaves(predictor.params)
    return [
        {
            "part": f"CLIP {description.clip_name}",
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(predictor.frozen.backbone)),
            "bytes": sum(file.stat().st_size for file in clip.weights),
        },
        {
            "part": "prompts",
            "parameters": sum(leaf.size for leaf in prompts),
            "bytes": sum(leaf.nbytes for leaf in prompts),
        },
        {"part": "calibration and distance", "parameters": None, "bytes": confidence.stat().st_size},
    ]


def measure(checkpoint: str, folder: Path, per_class: int, explained: int) -> dict[str, Any]:
    """All numbers of the card, ready for JSON."""
    _, description, step = checkpoints.load(checkpoint, "best")
    with tempfile.TemporaryDirectory() as name:  # a prepared copy of the images is not left anywhere
        place = Path(name)
        data = data_of(description, folder, place / "prepared", per_class)
        options = EvalSection(checkpoint=checkpoint, report="predictions", batch_size=200)
        result = evaluate_checkpoint(Config(data=data, eval=options), place)
        if "confidence" not in result:
            raise UserError(f"{checkpoint} has no {FILE}. {HOW_TO_MAKE}")
        predictions = Predictions.load(place / EVALUATION_PREDICTIONS)
        predictor = Predictor.from_checkpoint(checkpoint)
        number, maps = faithfulness.measure_split(predictor, data, explained)
    equal, near = seen_in_training(ferplus.read(folder, data.label_rule))
    return {
        **{name: value for name, value in result.items() if name not in ("checkpoint", "data")},  # places on this disk
        "trained_on": str(description.trained_on),
        "groups": [dataclasses.asdict(group) for group in groups(predictions, equal, near)],
        "faithfulness": {"images": number, "maps": maps},
        "sizes": sizes(description, step, checkpoint, predictor),
    }


def _interval(value: float | None, interval: Any) -> str:
    return "" if value is None else with_interval(value, interval)


def _answered(measured: dict[str, Any]) -> str:
    lines = []
    for row in measured["confidence"]["answered"]:
        threshold = row["min_confidence"]
        cells = [f"{row['accuracy']:.0%}", "not reached" if threshold is None else f"{threshold:.2f}"]
        for split in ("validation", "test"):
            found = row.get(split)
            shown = ("", "") if found is None else (f"{100 * found['coverage']:.1f}", found)
            cells += [shown[0], "" if found is None else _interval(found["accuracy"], found["interval"])]
        lines.append(cells)
    header = ("wanted accuracy", "`--min_confidence`", "validation: answered, %", "accuracy, %")
    return markdown((*header, "PublicTest: answered, %", "accuracy, %"), lines)


def render(measured: dict[str, Any]) -> str:
    """The card's section of results, Markdown."""
    whole, names, confusion = measured["groups"][0], measured["test"]["class_names"], measured["test"]["confusion"]
    accuracies = [
        [
            group["value"],
            f"{group['count']:,}",
            *(_interval(group[metric], group[f"{metric}_interval"]) for metric in ("war", "uar")),
        ]
        for group in measured["groups"]
    ]
    recalls = []
    for name, row in zip(names, confusion, strict=True):
        hits, count = whole["hits"][name], whole["support"][name]
        recall = _interval(hits / count, wilson(hits, count)) if count else ""
        recalls.append([name, f"{count:,}", recall, *map(str, row)])
    confidence, split = measured["confidence"], measured["confidence"]["splits"]["test"]
    parts = [
        [part["part"], "" if part["parameters"] is None else f"{part['parameters']:,}", f"{part['bytes'] / 1e6:.2f}"]
        for part in measured["sizes"]
    ]
    return "\n".join(
        (
            "## Measured on FERPlus' PublicTest\n",
            f"Step {measured['step']}, {measured['trained_on']}. Labels by majority (label.csv), with 95% intervals. "
            "PublicTest chose nothing. Made by `python -m tests.measurements.card --ferplus=FERPLUS`.\n",
            markdown(("images", "number", "accuracy (WAR), %", "UAR, %"), accuracies),
            "Recall of each class, %, and as what its images were classified:\n",
            markdown(("class", "images", "recall", *names), recalls),
            f"**How sure.** Expected calibration error {100 * split['uncalibrated']['ece']:.1f}%, "
            f"{100 * split['calibrated']['ece']:.1f}% with `--calibrated` (temperature "
            f"{confidence['temperature']:.2f}, fitted on {confidence['count']:,} images of Training that were held "
            f"out). {100 * split['unlike']:.1f}% of the images count as unlike the training images. Thresholds were "
            "chosen on the held-out images of Training:\n",
            _answered(measured),
            f"**Heat maps.** Deletion and insertion curves of {measured['faithfulness']['images']} images; mean area "
            "under the curve ± standard error, and the differences to a random order and to one from the centre "
            "outwards:\n",
            faithfulness.table(measured["faithfulness"]["maps"]),
            "**Size.**\n",
            markdown(("", "parameters", "MB"), parts),
        )
    )


@command(
    "card",
    path("--ferplus", required=True, help="FERPlus in its owners' layout (docs/datasets.md)"),
    CHECKPOINT,
    number("--per_class", 0, default=0, help="to try it: images of each class (default 0, all)"),
    number("--explained", 1, default=500, help="images whose heat maps are measured (default 500)"),
    path("--out", required=True, help="folder for card.json and card.md"),
    called="python -m tests.measurements.card",
)
def card(arguments: argparse.Namespace) -> None:
    """Measures a checkpoint of FERPlus' Training on PublicTest, for its card.

        python -m tests.measurements.card --ferplus=FERPLUS --checkpoint=RUN --out=measured

    Accuracy with and without images that are in Training too, recall and confusions of each class, calibration,
    thresholds of confidence, faithfulness of heat maps, sizes.
    """
    measured = measure(arguments.checkpoint, arguments.ferplus, arguments.per_class, arguments.explained)
    files.write_json(arguments.out / "card.json", measured)
    files.write_text(arguments.out / "card.md", text := render(measured))
    print(text)


if __name__ == "__main__":
    card.start()
