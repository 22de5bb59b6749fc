"""Evaluates checkpoints on datasets, each on each, and prints the matrix: how what was learned on one carries over.

    python -m mpafer_jax.cli.cross_dataset --workdir=runs/matrix \
      --checkpoint=runs/rafdb --checkpoint=runs/ferplus --checkpoint=affectnet=runs/affectnet7 \
      --dataset='jaffe=configs/jaffe.py:whole data.dir=/data/JAFFE' \
      --dataset='fer2013=configs/fer2013.py data.dir=/data/FER2013'

The columns are the test splits of the datasets that the checkpoints were trained on, and those of --dataset. Classes
are matched by name. By default a checkpoint chooses among the classes that it shares with the dataset
(--classes=common), and images of others are left out and counted. Runs over several seeds are one row, with mean and
sample standard deviation, where a checkpoint is given as --checkpoint='rafdb=runs/seeds/all/full/seed_*'.

Leaves `matrix.md`, `matrix.json`, `matrix.png` and a file for each cell in the workdir. The same command goes on with
the cells that are missing, or that are of other prompts or images. Exit code 2: a mistake, which the message explains.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes seconds to import
    from mpafer_jax.runtime import preemption

    preemption.listen()

import json
import pathlib
import re
import shlex
import sys
from collections.abc import Sequence
from typing import Any, cast

from absl import flags, logging

from mpafer_jax.cli import runner
from mpafer_jax.config.flags import read_config
from mpafer_jax.config.schema import ClassChoice, Config
from mpafer_jax.evaluation.matrix_plot import save_heat_map
from mpafer_jax.jobs.studies import cross_dataset
from mpafer_jax.runtime import console, distributed, files, progress
from mpafer_jax.runtime.errors import CheckpointError, ConfigError, DataError

runner.define_workdir()
runner.define_distributed()
_CHECKPOINTS = flags.DEFINE_multi_string(
    "checkpoint",
    [],
    "[name=]PATH of a workdir or checkpoint, once for each; the name is the folder's by default. name='PATH/seed_*' "
    "makes one row of several runs.",
)
_DATASETS = flags.DEFINE_multi_string(
    "dataset", [], "name=FILE[:arguments] field=value ..., as after --config; once for each further dataset."
)
_OWN = flags.DEFINE_bool("own_datasets", True, "Whether the datasets that the checkpoints were trained on are columns.")
_CLASSES = flags.DEFINE_enum(
    "classes", "common", ["common", "checkpoint", "dataset"], "Which to choose among, as config.eval.classes says."
)
_WHICH = flags.DEFINE_enum("which", "best", ["best", "last"], "Which of a workdir's checkpoints.")
_BATCH = flags.DEFINE_integer("batch_size", 0, "Images at once; 0: what each dataset's configuration says.", 0)
_NAME = re.compile(r"[\w.+-]+")


def parse_named(text: str, flag: str) -> tuple[str, str]:
    """Cuts 'name=rest' in two; without a name it is the last part of a checkpoint's path, or of a dataset's
    configuration file without its suffix.

    Raises:
      ConfigError: the name cannot be a file's.
    """
    name, equals, rest = text.partition("=")
    if not equals or "/" in name or " " in name:
        name, rest = pathlib.PurePath(text).name, text  # a folder's may hold dots and spaces, a bucket's URL a colon
        if flag == "dataset":
            name = pathlib.PurePath(text.split(" ")[0].partition(":")[0]).stem
    if not _NAME.fullmatch(name):
        raise ConfigError(f"--{flag}={text}: expected name=..., the name of letters, digits, '.', '_', '+' and '-'")
    return name, rest


def load_checkpoints(texts: Sequence[str], which: Any) -> list[cross_dataset.Trained]:
    """The rows.

    Raises:
      ConfigError: there are none, or two of one name.
      CheckpointError: one cannot be read.
    """
    named = [parse_named(text, "checkpoint") for text in texts]
    if not named:
        raise ConfigError("give at least one --checkpoint=WORKDIR")
    _refuse_twice("checkpoint", [name for name, _ in named])
    rows: list[cross_dataset.Trained] = []
    for name, path in named:
        place = runner.folder(path, "--checkpoint", local=False)
        if not files.is_pattern(place):
            rows.append(cross_dataset.Trained.load(name, name, path, which))
            continue
        found = files.matching(place)
        if not found:
            raise ConfigError(f"--checkpoint: there is no folder {path}")
        rows += [cross_dataset.Trained.load(f"{name}.{one.name}", name, str(one), which) for one in found]
    return rows


def load_targets(
    rows: Sequence[cross_dataset.Trained], texts: Sequence[str], *, own: bool, batch_size: int
) -> list[cross_dataset.Target]:
    """The columns: what the rows were trained on, if `own`, each once; then the configured ones.

    Raises:
      ConfigError: there are none, two of one name, or a configuration that does not hold.
      DataError: a dataset cannot be read.
    """
    configured: list[tuple[str, Config]] = []
    if own:
        for row in rows:
            try:
                configured.append((row.row, Config.from_json(json.dumps(row.description.config))))
            except ConfigError as error:
                raise ConfigError(
                    f"{row.path} was made by another version, so its dataset cannot be taken from it ({error}); name "
                    "the dataset with --dataset and give --noown_datasets"
                ) from error
    for text in texts:
        name, rest = parse_named(text, "dataset")
        configured.append((name, Config.from_config_dict(read_config(_words(rest)))))
    targets: list[cross_dataset.Target] = []
    for number, (name, config) in enumerate(configured):
        if batch_size:
            config = config.model_copy(update={"eval": config.eval.model_copy(update={"batch_size": batch_size})})
        target = cross_dataset.Target.load(name, config)
        same = [other.name for other in targets if other.split.fingerprint == target.split.fingerprint]
        if same and number < len(rows) * own:
            logging.info("%s was trained on the dataset of %s", name, same[0])
            continue
        targets.append(target)
    if not targets:
        raise ConfigError("no dataset to evaluate on; name one with --dataset, or leave --noown_datasets out")
    _refuse_twice("dataset", [target.name for target in targets])
    return targets


def _words(text: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"--dataset={text}: {error}") from error
    if not words:
        raise ConfigError("--dataset: expected name=FILE[:arguments] field=value ..., found no file")
    return words


def _refuse_twice(flag: str, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"--{flag}: {', '.join(twice)} is the name of more than one; give name=...")


def write(
    cells: Sequence[cross_dataset.Cell], workdir: pathlib.Path, classes: ClassChoice, flags_given: Sequence[str]
) -> str:
    """Writes the matrix as Markdown, JSON and an image; returns the Markdown."""
    text = cross_dataset.render(cells, classes)
    files.write_text(workdir / "matrix.md", text)
    files.write_json(
        workdir / cross_dataset.MATRIX, {"flags": list(flags_given), "classes": classes, "cells": list(cells)}
    )
    rows, columns, war = cross_dataset.arrays(cells, "war")
    save_heat_map(
        workdir / "matrix.png",
        {"accuracy (WAR)": war, "mean recall (UAR)": cross_dataset.arrays(cells, "uar")[2]},
        rows,
        columns,
        row_label="trained on",
        column_label="tested on",
        label="%",
    )
    return text


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    runner.refuse_arguments(argv)
    runner.run(_run, (ConfigError, DataError, CheckpointError))


def _run() -> None:
    workdir = runner.workdir()
    runner.import_libraries_without_torch()
    rows = load_checkpoints(_CHECKPOINTS.value, _WHICH.value)
    targets = load_targets(rows, _DATASETS.value, own=_OWN.value, batch_size=_BATCH.value)
    classes = cast(ClassChoice, _CLASSES.value)
    matrix = cross_dataset.Matrix(workdir, classes)
    cells: list[cross_dataset.Cell] = []
    pairs = [(row, target) for row in rows for target in targets]
    for row, target in progress.track(pairs, "matrix", len(pairs), "cells"):
        cell = matrix.cell(row, target)
        cells += [] if cell is None else [cell]
    if not cells:
        raise ConfigError("no checkpoint shares two classes with any of the datasets, so nothing was measured")
    if distributed.is_first():
        console.markdown(write(cells, workdir, classes, sys.argv[1:]))


if __name__ == "__main__":
    runner.start(main, required=["workdir"])
