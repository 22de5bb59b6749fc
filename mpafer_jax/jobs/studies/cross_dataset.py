"""Cross-dataset evaluation: each checkpoint on each dataset, classes matched by name.

Each cell of the matrix is a JSON file, written as soon as it is measured, so that a stopped run resumes with the
missing cells. A cell is measured again if its prompts, images, classes or CLIP have changed.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import pathlib
import re
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from mpafer_jax.artifacts import checkpoints, run_dir
from mpafer_jax.artifacts.description import Description, circumstances
from mpafer_jax.artifacts.loaded import for_classes
from mpafer_jax.backbones.base import Pretrained
from mpafer_jax.backbones.registry import local_content_hash
from mpafer_jax.config.expressions import map_classes
from mpafer_jax.config.flags import read_config
from mpafer_jax.config.schema import ClassChoice, Config
from mpafer_jax.data.splits import Split, load_dataset
from mpafer_jax.evaluation.evaluator import make_evaluator
from mpafer_jax.jobs import evaluate
from mpafer_jax.jobs.studies.cross_dataset_text import Cell, render, write
from mpafer_jax.method import build
from mpafer_jax.runtime import devices, distributed, files, locks, preemption, progress
from mpafer_jax.runtime.errors import ConfigError

_NAME = re.compile(r"[\w.+-]+")


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A checkpoint with a unique name; checkpoints of one `row` of the matrix are its runs."""

    name: str
    row: str
    path: str
    params: checkpoints.Params
    description: Description
    step: int
    chosen_on_test: bool  # on its run's test split

    @classmethod
    def load(cls, name: str, row: str, path: str, which: checkpoints.Which) -> Trained:
        """Reads a checkpoint. Raises CheckpointError as `checkpoints.load` does."""
        params, description, step = checkpoints.load(path, which)
        on_test = checkpoints.chosen_on_test(path, which, description)
        return cls(name, row, path, params, description, step, on_test)

    @functools.cached_property
    def digest(self) -> str:
        """Hex digest of the prompts and patch weights."""
        digest = hashlib.sha256(repr(self.description.patch_weights).encode())
        for name in sorted(self.params):
            value = np.ascontiguousarray(self.params[name])
            digest.update(f"{name} {value.shape} {value.dtype}\0".encode() + value.tobytes())
        return digest.hexdigest()


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """A column of the matrix: the test split of a dataset, and its configuration."""

    name: str
    config: Config
    split: Split

    @classmethod
    def load(cls, name: str, config: Config) -> Target:
        """Opens the dataset's test split, preparing it on first use."""
        split = load_dataset(config.data, without="validation").test
        if split is None:
            raise ConfigError(
                f"dataset {name}: its configuration gives no test split; set data.test_split or data.test_fraction, or "
                "take the config argument `whole` for datasets that have none"
            )
        return cls(name, config, split)


class Matrix:
    """Measures cells; CLIPs and models are cached between them.

    A cell holds 'checkpoint', 'row' and 'dataset' (names), 'between' (`data.dataset` of both), 'chosen_on_test'
    (whether the checkpoint was selected on its run's test split), 'war', 'uar', 'macro_f1', 'cross_entropy', 'count',
    'recall' and 'confusion' among 'class_names'; 'dropped', number of images by class outside 'class_names'; 'unknown',
    the checkpoint's classes that the dataset lacks; 'new', measured classes that the checkpoint was not trained on; and
    'identity', what the cell depends on.
    """

    def __init__(self, folder: pathlib.Path, classes: ClassChoice, moved: Sequence[str] = ()) -> None:
        """`folder` is for the cells' files; `classes` as in `config.eval.classes`; `moved` as in `measure`."""
        self._folder = folder
        self._moved = moved
        self._classes: ClassChoice = classes
        self._clips: dict[tuple[str, ...], Pretrained] = {}
        self._models: dict[tuple[str, tuple[str, ...]], tuple[build.Experiment, checkpoints.Params]] = {}

    def cell(self, trained: Trained, target: Target) -> Cell | None:
        """The cell of a checkpoint and a dataset, read from its file if it is up to date, else measured and written.

        Returns:
          None, with a warning, if the two share fewer than two classes.
        """
        both = trained.description.class_names, target.split.class_names
        try:
            names = evaluate.choose_classes(self._classes, *both)
            evaluate.choose_classes("dataset" if self._classes == "dataset" else "common", *both)
        except ConfigError as error:
            logging.warning("%s on %s: left out, %s", trained.name, target.name, error)
            return None
        identity = {
            "prompts": trained.digest,
            "clip": trained.description.clip_hash,
            "model": trained.description.model_sections().model_dump(
                mode="json", exclude={"clip": {"name", "revision", "cache_dir", "activation", "remat"}}
            ),
            "normalization": trained.description.normalization(),
            "images": target.split.fingerprint,
            "classes": list(names),
        }
        between = [trained.description.config["data"]["dataset"], target.config.data.dataset]
        path = self._folder / "cells" / f"{trained.name}--{target.name}.json"
        before = files.read_cached(path)
        # Measuring takes all processes, and a host may not see yet what another has written.
        is_known = distributed.all_agree(before is not None and before.get("identity") == identity)
        if before is not None and is_known:
            logging.info("%s on %s: measured before", trained.name, target.name)
            return {**before, "row": trained.row, "between": between, "chosen_on_test": trained.chosen_on_test}
        logging.info("%s on %s: %d images", trained.name, target.name, len(target.split))
        cell = {
            "checkpoint": trained.name,
            "row": trained.row,
            "path": trained.path,
            "step": trained.step,
            "chosen_on_test": trained.chosen_on_test,
            "dataset": target.name,
            "between": between,
            **self._measure(trained, target, names),
            "identity": identity,
            **circumstances(),
        }
        if distributed.is_first():
            files.write_json(path, cell)
        return cell

    def _measure(self, trained: Trained, target: Target, names: tuple[str, ...]) -> dict[str, Any]:
        experiment, params, config = self._model(trained, target.config, names)
        measured = make_evaluator(config, experiment)(devices.replicate(params), target.split)
        split, known = target.split, map_classes(target.split.class_names, names)
        counts = zip(split.class_names, known, split.class_counts().tolist(), strict=True)
        back, old = (
            map_classes(source, target_names)
            for source, target_names in (
                (trained.description.class_names, split.class_names),
                (names, trained.description.class_names),
            )
        )
        return {
            **measured.to_dict(),
            "dropped": {name: count for name, index, count in counts if index < 0 and count},
            "unknown": [n for n, at in zip(trained.description.class_names, back, strict=True) if at < 0],
            "new": [name for name, index in zip(names, old, strict=True) if index < 0],
        }

    def _model(
        self, trained: Trained, config: Config, names: tuple[str, ...]
    ) -> tuple[build.Experiment, checkpoints.Params, Config]:
        section = trained.description.model_sections().clip
        for name in self._moved:
            place = {"revision": "", "cache_dir": section.cache_dir, "activation": section.activation}
            if local_content_hash(name, **place) == trained.description.clip_hash:
                section = section.model_copy(update={"name": name, "revision": ""})
        config = trained.description.applied_to(config.model_copy(update={"clip": section}))
        place = (section.name, section.revision, section.cache_dir, section.dtype, section.activation)
        if place not in self._clips:
            called = f"the checkpoint {trained.name} was trained on the CLIP"
            self._clips[place] = build.load_frozen_clip(config, called, "; name the place where it is now (--clip)")
        clip = self._clips[place]
        build.check_normalization(config, clip)
        trained.description.check_clip(f"config.clip.name {section.name}", clip.content_hash)
        key = (trained.name, names)  # not its prompts alone: another head may have the same
        if key not in self._models:
            if any(name != trained.name for name, _ in self._models):
                self._models.clear()  # of another checkpoint: rows come one after the other
            self._models[key] = for_classes(config, trained.params, trained.description, clip, names)
        return *self._models[key], config


def parse_named(text: str, flag: str) -> tuple[str, str]:
    """Splits 'name=rest'. The default name is the last part of a checkpoint's path, or the stem of a dataset's
    configuration file.

    Raises:
      ConfigError: the name cannot be a file name.
    """
    name, equals, rest = text.partition("=")
    if not equals or "/" in name or " " in name:
        name, rest = pathlib.PurePath(text).name, text  # a folder may contain dots and spaces, a bucket's URL a colon
        if flag == "dataset":
            name = pathlib.PurePath(text.split(" ")[0].partition(":")[0]).stem
    if not _NAME.fullmatch(name):
        raise ConfigError(f"--{flag}={text}: expected name=..., the name of letters, digits, '.', '_', '+' and '-'")
    return name, rest


def load_checkpoints(texts: Sequence[str], which: Any) -> list[Trained]:
    """The rows of the matrix.

    Raises:
      ConfigError: no checkpoint, or two with one name.
      CheckpointError: a checkpoint cannot be read.
    """
    named = [parse_named(text, "checkpoint") for text in texts]
    if not named:
        raise ConfigError("give at least one --checkpoint=WORKDIR")
    _refuse_twice("checkpoint", [name for name, _ in named])
    rows: list[Trained] = []
    for name, path in named:
        place = files.any_path(path, "--checkpoint")
        if not files.is_pattern(place):
            rows.append(Trained.load(name, name, path, which))
            continue
        found = files.matching(place)
        if not found:
            raise ConfigError(f"--checkpoint: there is no folder {path}")
        if unfinished := [one for one in found if run_dir.is_unfinished(one)]:
            logging.warning("left out, as they have not ended: %s", ", ".join(map(str, unfinished)))
            found = [one for one in found if one not in unfinished]
        if not found:
            raise ConfigError(f"--checkpoint: none of the runs {path} has ended; name one to measure it as it is")
        rows += [Trained.load(f"{name}.{one.name}", name, str(one), which) for one in found]
    return rows


def load_targets(rows: Sequence[Trained], texts: Sequence[str], *, own: bool, batch_size: int) -> list[Target]:
    """The columns of the matrix: with `own` the datasets of the rows, each once; then the configured ones.

    Raises:
      ConfigError: no dataset, two with one name, or an invalid configuration.
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
    targets: list[Target] = []
    for number, (name, config) in enumerate(configured):
        if batch_size:
            config = config.model_copy(update={"eval": config.eval.model_copy(update={"batch_size": batch_size})})
        target = Target.load(name, config)
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
    if of_clip := [word for word in words[1:] if word.startswith("clip.")]:
        raise ConfigError(
            f"--dataset: {of_clip[0]} does nothing, as the CLIP is the checkpoint's; --clip says where it is"
        )
    return words


def _refuse_twice(flag: str, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"--{flag}: {', '.join(twice)} is the name of more than one; give name=...")


def measure(
    rows: Sequence[Trained],
    targets: Sequence[Target],
    workdir: pathlib.Path,
    classes: ClassChoice,
    flags: Sequence[str] = (),
    moved: Sequence[str] = (),
) -> str:
    """Measures the missing cells and writes the matrix; all processes call it.

    Args:
      workdir: for `matrix.md`, `matrix.json`, `matrix.png` and a file for each cell.
      classes: as in `config.eval.classes`.
      flags: of the command, for the record.
      moved: places of CLIPs that are not where the checkpoints say; the content tells which is whose.

    Returns:
      The matrix as Markdown.

    Raises:
      CheckpointError, ConfigError: see `Matrix.cell`; or no cell could be measured, or `run_dir.check_shared`.
      LockedError: another process holds the workdir.
      signals.Preempted: stopped on request; the measured cells stay.
    """
    run_dir.check_shared(workdir)
    with preemption.Notice(), locks.hold_for_run(workdir / locks.RUN, workdir):
        matrix = Matrix(workdir, classes, moved)
        pairs = [(row, target) for row in rows for target in targets]
        measured = [matrix.cell(*pair) for pair in progress.track(pairs, "matrix", len(pairs), "cells")]
        cells = [cell for cell in measured if cell is not None]
        if not cells:
            raise ConfigError("no checkpoint shares two classes with any of the datasets, so nothing was measured")
        return write(cells, workdir, classes, flags) if distributed.is_first() else render(cells, classes)
