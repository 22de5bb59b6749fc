"""Array storage for Orbax checkpoints, on disks and in buckets.

On disks and at gs:// Orbax writes arrays through TensorStore. Orbax cannot lead TensorStore to s3://: there our handler
writes them as one safetensors object through fsspec; the rest is Orbax's everywhere. Bucket folders cannot be renamed,
so a checkpoint in a bucket is complete when Orbax's marker exists.

Orbax, "Checkpointing format" and "Custom handlers": https://orbax.readthedocs.io
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any, cast

import jax
import numpy as np
import orbax.checkpoint as ocp
import safetensors.numpy
from absl import logging
from orbax.checkpoint import path as ocp_path

from mpafer_jax.runtime import distributed, files, finite
from mpafer_jax.runtime.arrays import described, mismatches, named

_ARRAYS = "arrays.safetensors"
_SEAL = "crc32"  # a metric


class ArraysHandler(ocp.CheckpointHandler):
    """Stores a tree of replicated arrays as one safetensors object; process 0 writes it."""

    def save(self, directory: Any, args: ArraysSave) -> None:
        """Writes the tree `args.item`."""
        if distributed.is_first():
            arrays = {name: np.array(value, order="C") for name, value in named(args.item)}
            (directory / _ARRAYS).write_bytes(safetensors.numpy.save(arrays))

    def restore(self, directory: Any, args: ArraysRestore | None = None) -> Any:
        """Reads a tree of NumPy arrays with the structure of `args.item`.

        Raises:
          ValueError: an array is missing, or has another shape.
        """
        assert args is not None
        arrays = self._read(directory)
        leaves: list[Any] = []
        for name, expected in named(args.item):
            stored = arrays.get(name)
            if stored is None or stored.shape != np.shape(expected):
                actual = "nothing" if stored is None else f"shape {stored.shape}"
                raise ValueError(
                    f"{directory / _ARRAYS}: expected {name} of shape {np.shape(expected)}, found {actual}"
                )
            leaves.append(stored)
        return cast(Any, jax.tree).unflatten(cast(Any, jax.tree).structure(args.item), leaves)

    def metadata(self, directory: Any) -> dict[str, Any]:
        """Name -> array; works for a dictionary of arrays only, since the structure is not stored."""
        return self._read(directory)

    def _read(self, directory: Any) -> dict[str, Any]:
        return cast(dict[str, Any], safetensors.numpy.load((directory / _ARRAYS).read_bytes()))


@ocp.args.register_with_handler(ArraysHandler, for_save=True)
@dataclasses.dataclass
class ArraysSave(ocp.args.CheckpointArgs):
    """Argument of `ArraysHandler.save`."""

    item: Any


@ocp.args.register_with_handler(ArraysHandler, for_restore=True)
@dataclasses.dataclass
class ArraysRestore(ocp.args.CheckpointArgs):
    """Argument of `ArraysHandler.restore`: the structure."""

    item: Any


def _is_s3(folder: os.PathLike[str]) -> bool:
    return os.fspath(folder).startswith("s3://")


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, without its preemption check, and tolerant of damaged metrics.

    Processes agree on a stop at the highest point that any of them has asked about (`preemption.Notice`). Orbax's check
    at every save uses the step, a lower number, so that they would agree on a point already passed.

    Orbax reads the metrics of all steps when it opens a folder: one damaged file would make all unreadable.
    """

    def metrics(self, step: int) -> dict[str, float]:
        """A step's metrics, verified by their checksum; if damaged, a warning and only the step."""
        try:
            metrics = dict(cast(Any, super().metrics(step)))
            if metrics.pop(_SEAL) != _seal(metrics) or metrics.get("step") != step:
                raise ValueError("not what was saved, by its checksum")
        except Exception as error:  # errors of damaged files have no common base
            logging.warning(
                "step %d in %s is not compared with others: its metrics cannot be read (%s: %s)",
                step,
                self.directory,
                type(error).__name__,
                error,
            )
            return {"step": step}
        return metrics

    def reached_preemption(self, step: int) -> bool:
        """Never."""
        del step
        return False


def open_manager(
    folder: pathlib.Path, arrays: tuple[str, ...], others: Mapping[str, Any], options: Mapping[str, Any]
) -> Any:
    """An Orbax manager of the checkpoints in a folder, on a disk or in a bucket.

    Args:
      folder: of the checkpoints.
      arrays: names of the items that are trees of arrays.
      others: handlers of the other items, by name.
      options: of `CheckpointManagerOptions`.
    """
    s3 = _is_s3(folder)
    handlers = {name: ArraysHandler() if s3 else ocp.StandardCheckpointHandler() for name in arrays}
    marked: dict[str, Any] = {"temporary_path_class": ocp_path.atomicity.CommitFileTemporaryPath} if s3 else {}
    return _Manager(
        folder if files.in_bucket(folder) else folder.resolve(),
        options=ocp.CheckpointManagerOptions(**options, **marked),
        item_handlers=cast(Any, {**handlers, **others}),
    )


def save_arrays(manager: Any, tree: Any) -> ocp.args.CheckpointArgs:
    """The manager's save argument for a tree of arrays."""
    return ArraysSave(jax.device_get(tree)) if _is_s3(manager.directory) else ocp.args.StandardSave(tree)


def restore_arrays(manager: Any, step: int, templates: Mapping[str, Any]) -> dict[str, Any]:
    """Restores items that are trees of arrays: item name -> tree of NumPy arrays.

    `templates` are trees of NumPy arrays with the expected structure, shapes and dtypes.

    Raises:
      ValueError: names every array that is missing, unexpected, of another shape or dtype, or not finite.
      Exception: Orbax's and TensorStore's errors of damaged files, which have no common base.
    """
    kind = ArraysRestore if _is_s3(manager.directory) else ocp.args.StandardRestore
    args = ocp.args.Composite(**{name: kind(template) for name, template in templates.items()})
    restored = manager.restore(step, args=args)
    trees = {name: restored[name] for name in templates}
    # Orbax does not check shapes.
    problems = mismatches(described(trees), described(dict(templates)))
    problems += [f"NaN or infinite numbers: {name}" for name in finite.not_finite(trees)]
    if problems:
        raise ValueError("; ".join(problems))
    return trees


def sealed(metrics: Mapping[str, float]) -> dict[str, float]:
    """A checkpoint's metrics, which include 'step', with a checksum that the manager verifies on reading."""
    return {**metrics, _SEAL: _seal(metrics)}


def _seal(metrics: Mapping[str, float]) -> int:
    return zlib.crc32(json.dumps(metrics, sort_keys=True).encode())  # a number, as metrics must be
