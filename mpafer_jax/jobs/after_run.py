"""Saves predictions and writes the report after training or evaluation."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np

from mpafer_jax.artifacts.run_dir import EXAMPLES
from mpafer_jax.config.schema import Config
from mpafer_jax.data.splits import Split
from mpafer_jax.evaluation.predictions import Predictions
from mpafer_jax.runtime import distributed, files, progress
from mpafer_jax.runtime.errors import ReportError


def leave_report(config: Config, predictions: Predictions | None, splits: Sequence[Split], path: pathlib.Path) -> None:
    """Saves predictions and writes `report.html` beside them, depending on `config.eval.report`; process 0 only.

    For the synthetic dataset it also writes `examples/`, one image of each class.

    Args:
      predictions: for the reported split, if any.
      splits: the evaluated splits.
      path: of the predictions, in the workdir.

    Raises:
      ReportError: a file cannot be read or written; the run's numbers are written.
    """
    report = config.eval.report
    if report == "none" or not distributed.is_first():
        return
    try:
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
