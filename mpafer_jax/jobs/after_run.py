"""Saves confidence and predictions and writes the report after training or evaluation."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from mpafer_jax.artifacts.confidence import Confidence
from mpafer_jax.artifacts.run_dir import EXAMPLES, REPORT
from mpafer_jax.config.schema import Config
from mpafer_jax.data.splits import Dataset, Split
from mpafer_jax.evaluation.calibration import LARGEST, SMALLEST
from mpafer_jax.evaluation.predictions import Predictions
from mpafer_jax.runtime import distributed, files, progress
from mpafer_jax.runtime.errors import ReportError


def can_fit(dataset: Dataset) -> bool:
    """Whether there are training images, and validation images that are not the test images, to fit a confidence on."""
    validation, test = dataset.validation, dataset.test
    other = test is None or (validation is not None and validation.fingerprint != test.fingerprint)
    return bool(len(dataset.train)) and validation is not None and bool(len(validation)) and other


def leave_confidence(folder: pathlib.Path, confidence: Confidence, params: dict[str, Any]) -> None:
    """Saves a checkpoint's confidence in its folder; process 0 only. `params` are its prompts, on the host."""
    if not distributed.is_first():
        return
    progress.fact("confidence", str(confidence))
    if confidence.temperature in (SMALLEST, LARGEST):
        logging.warning(
            "the temperature is at its limit of %g: on the validation split every answer is right, or the logits say "
            "nothing about the classes",
            confidence.temperature,
        )
    try:
        confidence.save(folder, params)
    except FileNotFoundError:
        logging.warning("%s is gone, as a run that still trains keeps its newest checkpoints: no temperature", folder)
    except OSError as error:
        if not files.is_not_writable(error):
            raise
        logging.warning("%s cannot be written (%s): the checkpoint gets no temperature", folder, error)


def leave_report(config: Config, predictions: Predictions | None, splits: Sequence[Split], path: pathlib.Path) -> None:
    """Saves predictions and writes `report.html` beside them, depending on `config.eval.report`; process 0 only.

    For the synthetic dataset it also writes `examples/`, one image of each class. Without a new page an earlier one is
    removed, as it shows other numbers than the workdir holds now.

    Args:
      predictions: for the reported split, if any.
      splits: the evaluated splits.
      path: of the predictions, in the workdir.

    Raises:
      ReportError: a file cannot be read or written; the run's numbers are written.
    """
    report = config.eval.report
    if not distributed.is_first():
        return
    try:
        page = path.parent / REPORT
        if report in ("none", "predictions") and page.is_file():
            page.unlink()
            logging.info(
                "%s showed earlier results and is removed, as eval.report is %r; mpafer-jax report %s makes it anew",
                *(page, report, path.parent),
            )
        if report == "none":
            return
        with progress.task("report"):
            if predictions is not None:
                predictions.save(path)
                if report == "full" and config.data.dataset == "synthface":  # others may not be redistributed
                    split = next(split for split in splits if split.name == predictions.split)
                    leave_examples(split, path.parent / EXAMPLES)
            if report != "predictions":
                from mpafer_jax.evaluation.report import pages  # imported here: Matplotlib takes a second

                pages.write_report(path.parent)
    except (OSError, ReportError) as error:
        raise ReportError(
            f"the numbers are written, but not the report: {type(error).__name__}: {error}. Put that right and run "
            f"mpafer-jax report {path.parent}, or choose eval.report=none"
        ) from error


def leave_examples(split: Split, folder: pathlib.Path) -> None:
    """Writes the split's first image of each class as <class>.png, to try `mpafer_jax.predict` on."""
    for label, name in enumerate(split.class_names):
        positions = np.flatnonzero(split.labels == label)
        if len(positions):
            with files.replacing(folder / f"{name}.png") as temporary:
                split.source.image(int(positions[0])).save(temporary, "PNG")
