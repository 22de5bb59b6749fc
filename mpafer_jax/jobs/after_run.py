"""The last part of a training or an evaluation: predictions are kept, and the report is written."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from mpafer_jax.artifacts.run_dir import EXAMPLES
from mpafer_jax.data.splits import Split
from mpafer_jax.evaluation.evaluator import Evaluator
from mpafer_jax.evaluation.predictions import predict
from mpafer_jax.evaluation.protocol import reported_split
from mpafer_jax.runtime import devices, distributed, files, progress
from mpafer_jax.runtime.errors import ReportError


def leave_report(
    evaluator: Evaluator, params: dict[str, Any], step: int, splits: Sequence[Split], path: pathlib.Path
) -> None:
    """Keeps what a checkpoint says of every image of the reported split, and writes `report.html` beside it, as far as
    `config.eval.report` asks for it; with drawn faces also `examples/`, one of each class.

    Every process calls this, after the numbers are written; process 0 writes.

    Args:
      evaluator: of the model, with the run's configuration.
      params: the checkpoint's prompts.
      step: of the checkpoint.
      splits: what was measured; of test and validation, test is reported.
      path: of the predictions, in the workdir.

    Raises:
      ReportError: whatever went wrong, with what to do; the run's numbers are there.
    """
    split = {split.name: split for split in splits}
    name = reported_split(split)
    try:
        with progress.task("report"):
            if name is not None:
                config, on_devices = evaluator.config, devices.replicate(params)
                images = config.eval.report == "full"
                found = predict(config, evaluator.run, on_devices, split[name], step=step, images=images)
                if distributed.is_first():
                    found.save(path)
                    if images and config.data.dataset == "synthface":  # others' images are not ours to pass on
                        leave_examples(split[name], path.parent / EXAMPLES)
            if distributed.is_first() and evaluator.config.eval.report != "predictions":
                from mpafer_jax.evaluation.report import pages  # here: Matplotlib takes a second

                pages.write_report(path.parent)
    except Exception as error:  # a report must not take down what calls it with an error of its own kind
        raise ReportError(
            f"the numbers are written, but not the report: {type(error).__name__}: {error}. Put that right and run "
            f"mpafer-jax report {path.parent}, or choose eval.report=none"
        ) from error


def leave_examples(split: Split, folder: pathlib.Path) -> None:
    """Writes the split's first image of each class as <class>.png, for a first try of `mpafer_jax.predict`."""
    for label, name in enumerate(split.class_names):
        found = np.flatnonzero(split.labels == label)
        if len(found):
            with files.replacing(folder / f"{name}.png") as temporary:
                split.source.image(int(found[0])).save(temporary, "PNG")
