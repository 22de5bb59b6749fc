"""Predictions for a whole dataset (`--mode=predict`), written in parts by any number of processes.

    <workdir>/predictions/test.json                        identity: checkpoint, data and format
                          test-00000-of-00031.parquet      images 0 to images_per_part - 1
                          test-00001-of-00031.parquet      the next

Parts are written atomically. A rerun computes the missing ones, also with another number of processes, since the images
of a part depend only on the configuration.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import json
import pathlib
import time
from collections.abc import Collection
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from absl import logging

from mpafer_jax.artifacts import checkpoints
from mpafer_jax.artifacts import run_dir as workdir_lib
from mpafer_jax.artifacts.description import Description
from mpafer_jax.config.schema import Config
from mpafer_jax.data import pipeline, registry
from mpafer_jax.data.splits import Split, load_dataset
from mpafer_jax.evaluation.metrics import softmax
from mpafer_jax.inference.predictor import Predictor
from mpafer_jax.runtime import devices, distributed, files, locks, preemption, progress
from mpafer_jax.runtime.errors import ConfigError

FOLDER = "predictions"
_POLL_SECONDS = 0.5


@dataclasses.dataclass(frozen=True)
class Parts:
    """A split divided into parts.

    Attributes:
      folder: of the parts.
      split: its name.
      size: number of images.
      images_per_part: the last part may have fewer.
      format: "parquet" or "csv".
    """

    folder: pathlib.Path
    split: str
    size: int
    images_per_part: int
    format: str

    @property
    def number(self) -> int:
        """Number of parts."""
        return -(-self.size // self.images_per_part)

    def path(self, part: int) -> pathlib.Path:
        """File of a part."""
        return self.folder / f"{self.split}-{part:05}-of-{self.number:05}.{self.format}"

    def positions(self, part: int) -> range:
        """Positions in the split of a part's images."""
        return range(part * self.images_per_part, min((part + 1) * self.images_per_part, self.size))

    def missing(self) -> npt.NDArray[np.int64]:
        """Indices of missing parts, as seen by process 0."""
        absent = np.array([not self.path(part).exists() for part in range(self.number)])
        return np.flatnonzero(distributed.broadcast(absent))


def predict_dataset(config: Config, workdir: pathlib.Path, *, clip: str = "", given: Collection[str] = ()) -> None:
    """Writes the predictions of `config.eval.checkpoint` for one split of the configured dataset.

    Each process computes its own parts on its own devices. Columns: index (position in the split), file (name in the
    dataset), label (the dataset's class), expression (the predicted class) and p_<class>, the probability of each of
    the checkpoint's classes.

    Args:
      config: reads `predict`, `data`, `eval.checkpoint`, `eval.which` and `eval.batch_size`.
      workdir: gets the folder of predictions; also of the checkpoint if `eval.checkpoint` is empty.
      clip: name of the checkpoint's CLIP if that has moved; '' for the recorded name.
      given: fields that were set by name, which may not differ from what is used here.

    Raises:
      CheckpointError: no checkpoint, or one trained on another CLIP.
      ConfigError: the split does not exist, the folder holds other predictions, or see `given`.
      signals.Preempted: stopped on request; finished parts stay.
    """
    devices.check_batch_size("eval.batch_size", config.eval.batch_size)
    registry.check(config.data)
    workdir_lib.check_shared(workdir)
    with preemption.Notice() as notice, contextlib.ExitStack() as stack:
        path, which = config.eval.checkpoint or workdir, config.eval.which
        params, description, step = checkpoints.load(path, which)
        description.refuse_others(config, given)
        _refuse_fields_of_evaluation(config, description, given)
        batch_size = config.eval.batch_size // jax.process_count()
        # By its folder: a run that still trains may have another best or last one by now.
        loaded = checkpoints.folder(path, step)
        predictor = Predictor.from_checkpoint(loaded, clip=clip, batch_sizes=(batch_size,))
        split = _find_split(config)
        section = config.predict
        parts = Parts(workdir / FOLDER, split.name, len(split), section.images_per_part, section.format)
        subject = {
            "prompts": hashlib.sha256(b"".join(params[name].tobytes() for name in sorted(params))).hexdigest(),
            "step": step,
            "clip": description.clip_hash,
            "class_names": list(predictor.class_names),
            "data": split.fingerprint,
            "images": len(split),
            "images_per_part": parts.images_per_part,
            "format": parts.format,
        }
        _claim(parts.folder / f"{split.name}.json", subject)
        # Missing parts are shared evenly, so that all processes finish at about the same time.
        missing: list[int] = parts.missing().tolist()
        todo = missing[jax.process_index() :: jax.process_count()]
        stack.enter_context(locks.hold_for_run(parts.folder / f".{split.name}.lock", parts.folder))
        notice.start_clock()
        total = sum(len(parts.positions(part)) for part in todo)
        with progress.task(f"predicting {split.name}", total, split.unit) as work:
            for done, part in enumerate(todo, start=1):
                rows = parts.positions(part)
                columns = _predict(predictor, split.take(np.array(rows)), rows, config, batch_size, notice, work)
                _write(parts.path(part), columns)
                logging.debug("part %d of %d is written (%d of %d here)", part, parts.number, done, len(todo))
        _wait_for([parts.path(part) for part in missing], notice)
        logging.info("%d %s of %s in %d parts: %s", len(split), split.unit, split.name, parts.number, parts.folder)


def _refuse_fields_of_evaluation(config: Config, description: Description, given: Collection[str]) -> None:
    """Refuses other values of what --mode=eval, but not --mode=predict, takes from the configuration."""
    clip = description.model_sections().clip
    used = {"clip.dtype": clip.dtype, "clip.residual_dtype": clip.residual_dtype, "eval.classes": "checkpoint"}
    here = workdir_lib.flatten(config.model_dump())
    for name in used.keys() & {*given}:
        if here[name] != used[name]:
            raise ConfigError(
                f"config.{name} is {here[name]!r}, but --mode=predict always takes {used[name]!r}, as the checkpoint "
                "was trained; leave it out, or use --mode=eval, which reads it"
            )


def _find_split(config: Config) -> Split:
    dataset = load_dataset(config.data)
    split = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}[config.predict.split]
    if split is None or not len(split):
        raise ConfigError(
            f"config.predict.split is {config.predict.split!r}, which the dataset does not have here; set config."
            "data.train_splits, validation_split and test_split (data.train_splits=() and data.test_split=all take "
            "all of a dataset)"
        )
    return split


def _claim(path: pathlib.Path, subject: dict[str, Any]) -> None:
    """Writes the identity of the predictions, or raises ConfigError if the folder has another."""
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        differing = [name for name in subject if before.get(name) != subject[name]]
        if differing:
            differences = "; ".join(f"{name} there {before.get(name)!r}, here {subject[name]!r}" for name in differing)
            raise ConfigError(
                f"{path} says that the parts beside it are predictions of something else: {differences}. Give another "
                "--workdir, or delete that folder"
            )
    elif distributed.is_first():
        files.write_json(path, subject)


def _wait_for(paths: list[pathlib.Path], notice: preemption.Notice) -> None:
    """Returns when the parts of all processes exist."""
    missing = paths
    while missing := [path for path in missing if not path.exists()]:
        notice.check_clock()
        time.sleep(_POLL_SECONDS)


def _predict(
    predictor: Predictor,
    split: Split,
    rows: range,
    config: Config,
    batch_size: int,
    notice: preemption.Notice,
    work: progress.Task,
) -> dict[str, np.ndarray[Any, Any] | list[str]]:
    """The columns of one part; the logits of a clip are the mean of those of its frames."""
    images, grouping = split.frames()
    ends = grouping.starts + grouping.counts
    logits = np.empty((len(images), len(predictor.class_names)), np.float64)
    filled = 0
    for batch in pipeline.eval_batches(
        images, section=config.data, image_size=predictor.image_size, batch_size=batch_size
    ):
        notice.check_clock()
        real = int(batch["mask"].sum())
        names = images.names[filled : filled + real].tolist()
        logits[filled : filled + real] = predictor.logits(batch["image"][:real], names)
        work.advance(int(np.sum((ends > filled) & (ends <= filled + real))))
        filled += real
    probabilities = softmax(grouping.mean(logits)).astype(np.float32)
    named = {f"p_{name}": probabilities[:, column] for column, name in enumerate(predictor.class_names)}
    return {
        "index": np.array(rows),
        "file": [files.utf8_name(name) for name in split.names.tolist()],
        "label": [split.class_names[label] for label in split.labels],
        "expression": [predictor.class_names[column] for column in probabilities.argmax(axis=1)],
        **named,
    }


def _write(path: pathlib.Path, columns: dict[str, np.ndarray[Any, Any] | list[str]]) -> None:
    pyarrow: Any = importlib.import_module("pyarrow")
    table = pyarrow.table(columns)
    with files.replacing(path) as temporary:
        if path.suffix == ".parquet":
            importlib.import_module("pyarrow.parquet").write_table(table, temporary)
        else:
            importlib.import_module("pyarrow.csv").write_csv(table, temporary)
