"""Checkpoints: Orbax folders that hold prompts, optimizer and a description of themselves.

<workdir>/checkpoints/step_120/params        the prompts alone: all that prediction needs besides CLIP
                               opt_state     what training needs besides to go on
                               description   see `checkpoint_description.Description`
                               interval      metrics that wait for their line, only where a run was stopped: see `save`
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Literal, TypeVar, cast

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pydantic
from absl import logging
from orbax.checkpoint import checkpoint_managers

from mpafer_jax import checkpoint_storage as storage
from mpafer_jax import devices, distributed, files
from mpafer_jax.checkpoint_description import CheckpointError, Described, Description
from mpafer_jax.config import ConfigError
from mpafer_jax.export.prompts import PROMPTS, PromptFileError, load_prompts
from mpafer_jax.expressions import map_classes
from mpafer_jax.state import TrainState

FOLDER = "checkpoints"
_PREFIX = "step"
_SELECTED = "selected"  # among the saved metrics: the value that chooses the best

Params = dict[str, Any]
Which = Literal["best", "last"]
# Metrics of one step on the host: name -> (sum, count).
StepMetrics = Mapping[str, tuple[float, float]]
D = TypeVar("D", bound=Described)


class UnreadableError(CheckpointError):
    """A checkpoint whose files are damaged or not of this program's form."""


def _open(folder: pathlib.Path, *, keep: int, clean: bool) -> Any:
    best = checkpoint_managers.BestN(get_metric_fn=cast(Any, _rank), n=1)
    options = {
        "best_fn": _rank,
        "preservation_policy": checkpoint_managers.AnyPreservationPolicy([checkpoint_managers.LatestN(keep), best]),
        "step_prefix": _PREFIX,
        "cleanup_tmp_directories": clean,
    }
    others = {name: ocp.JsonCheckpointHandler() for name in ("description", "interval")}
    return storage.open_manager(folder, ("params", "opt_state"), others, options)


def _rank(metrics: Mapping[str, float]) -> tuple[float, float]:
    """Orders checkpoints: the best on validation highest, of equals the earliest."""
    if _SELECTED in metrics:
        return metrics[_SELECTED], -metrics["step"]
    return -1.0, metrics["step"]  # saved between evaluations: below all that were evaluated


def _best_step(manager: Any) -> int | None:
    step = manager.best_step()
    return step if step is not None and _SELECTED in manager.metrics(step) else None


class Checkpoints:
    """The checkpoints of one run: saved in the background, the newest few and the best one kept."""

    def __init__(self, workdir: pathlib.Path, *, keep: int, select_by: str) -> None:
        """Opens or creates the folder.

        Args:
          workdir: of the run.
          keep: how many of the newest to keep; the best on validation is kept besides.
          select_by: the validation metric that decides which is best; of equals, the earliest.
        """
        self._select_by = select_by
        self._manager = _open(workdir / FOLDER, keep=keep, clean=True)

    def save(
        self,
        state: TrainState,
        description: Described,
        validation: Mapping[str, float] | None,
        interval: Sequence[StepMetrics] = (),
    ) -> None:
        """Starts saving; all processes must call it.

        Args:
          state: what to save.
          description: of the run.
          validation: metrics of an evaluation at this very step, if there was one.
          interval: metrics of the latest steps, one entry each, that no line of `metrics.jsonl` holds yet: of a run
            that was asked to stop between two lines, so that it goes on to the same lines.

        Raises:
          CheckpointError: this one could not be begun, or the one before it not be written.
        """
        step = int(devices.to_host(state.step))
        metrics = {"step": step}
        if validation is not None:
            metrics |= {**validation, _SELECTED: validation[self._select_by]}
        items = {
            "params": storage.save_arrays(self._manager, devices.to_global(state.params)),
            "opt_state": storage.save_arrays(self._manager, devices.to_global(state.opt_state)),
            "description": ocp.args.JsonSave(description.model_dump(mode="json")),
        }
        if interval:
            items["interval"] = ocp.args.JsonSave({"steps": [dict(metrics) for metrics in interval]})
        with self._saying_what_is_left():
            if not self._manager.save(step, args=ocp.args.Composite(**items), metrics=metrics):
                raise RuntimeError(f"step {step} was to be saved, but step {self._manager.latest_step()} is there")

    def latest_description(self, kind: type[D]) -> D | None:
        """What the newest checkpoint says of itself, or None where nothing was saved yet."""
        step = self._manager.latest_step()
        return None if step is None else _restore_description(self._manager, step, kind)

    def latest_interval(self) -> list[StepMetrics]:
        """What the newest checkpoint was given as `interval`."""
        step = self._manager.latest_step()
        if step is None or not (self._manager.directory / f"{_PREFIX}_{step}" / "interval").exists():
            return []
        with _naming_the_checkpoint(self._manager, step):
            args = ocp.args.Composite(interval=ocp.args.JsonRestore())
            return self._manager.restore(step, args=args)["interval"]["steps"]

    def restore_latest(self, state: TrainState, description: Described) -> TrainState | None:
        """The newest state that can be read, on the devices, or None where nothing was saved yet.

        Newer checkpoints that cannot be read are warned of and moved to `unreadable-step_N`, out of the run's way. All
        processes must call it.

        Args:
          state: gives the structure.
          description: of the run that wants to go on.

        Raises:
          UnreadableError: there are checkpoints, and none can be read; all stay where they are.
          CheckpointError: what the description calls unchanged is not what the checkpoint was made with.
        """
        newest_error: UnreadableError | None = None
        steps: list[int] = sorted(self._manager.all_steps(), reverse=True)
        for number, step in enumerate(steps):
            restored, error = None, None
            try:
                restored = self._restore(step, state, description)
            except UnreadableError as unreadable:
                error = unreadable
            if distributed.all_agree(error is None) and restored is not None:
                for damaged in steps[:number]:
                    self._set_aside(damaged)
                return restored
            # Another process's file system may differ; this one's error then says nothing.
            error = error or UnreadableError(f"step {step} cannot be read by another process of this run")
            logging.warning("falling back from step %d: %s", step, error)
            newest_error = newest_error or error
        if newest_error is not None:
            raise newest_error
        return None

    def _set_aside(self, step: int) -> None:
        folder = self._manager.directory / f"{_PREFIX}_{step}"
        if distributed.is_first():
            files.rename_folder(folder, f"unreadable-{folder.name}")
        distributed.wait_for_all(f"set aside {step}")
        self._manager.reload()

    def _restore(self, step: int, state: TrainState, description: Described) -> TrainState:
        before = _restore_description(self._manager, step, type(description)).unchanged()
        for what, here in description.unchanged().items():
            there = before.get(what)
            if there != here:
                raise CheckpointError(
                    f"cannot go on after step {step}: {what} changed since it was saved (then {there}, now {here}); "
                    "put the old files back, or start anew in another workdir"
                )
        host = devices.to_host(state)
        args = ocp.args.Composite(
            params=storage.restore_arrays(self._manager, host.params),
            opt_state=storage.restore_arrays(self._manager, host.opt_state),
        )
        with _naming_the_checkpoint(self._manager, step):
            restored = self._manager.restore(step, args=args)
        return devices.replicate(TrainState(jnp.asarray(step, jnp.int32), restored["params"], restored["opt_state"]))

    def best_step(self) -> int | None:
        """The step that was best on validation, or None where no kept checkpoint was evaluated."""
        return _best_step(self._manager)

    def restore_params(self, step: int, like: Params) -> Params:
        """The prompts of a step, as NumPy arrays; `like` gives names, shapes and types."""
        # Not `_restore_params`: in a bucket, Orbax takes items for unfinished when a process other than 0 asks a
        # manager that has saved for their shapes.
        return _restore_params_like(self._manager, step, like)

    def wait(self) -> None:
        """Returns when everything that was started is on disk; raises CheckpointError where it cannot be."""
        with self._saying_what_is_left():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _saying_what_is_left(self) -> Generator[None]:
        try:
            yield
        except Exception as error:  # what a full or failing disk raises in Orbax and TensorStore has no common base
            folder: Any = self._manager.directory
            finished = sorted(path.name for path in folder.glob(f"{_PREFIX}_*") if "tmp" not in path.name)
            raise CheckpointError(
                f"a checkpoint cannot be written in {folder} ({type(error).__name__}: {error}). Those written before "
                f"are intact: {', '.join(finished) or 'none'}; make room there, or mend what is broken, and run the "
                "same command again"
            ) from error

    def close(self) -> None:
        """Waits and lets go of the folder."""
        self._manager.close()


def load(path: str | pathlib.Path, which: Which) -> tuple[Params, Description, int]:
    """Reads a checkpoint for prediction or a warm start.

    Args:
      path: a workdir, its `checkpoints` folder, one `step_N` folder, or a folder of exported prompts; on a disk or in
        a bucket.
      which: of several, the best on validation (the last where none was evaluated) or the last.

    Returns:
      The prompts as NumPy arrays, the description, the step.

    Raises:
      CheckpointError: there is none, or its files cannot be read.
    """
    try:
        place = files.any_path(path, "the checkpoint")
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    if (place / PROMPTS).is_file():
        return _load_exported(place)
    folder, step = _find(place)
    manager = _open(folder, keep=1, clean=False)  # its owner may be saving: nothing is deleted here
    try:
        steps: list[int] = sorted(manager.all_steps())
        if not steps or (step is not None and step not in steps):
            raise CheckpointError(f"no finished checkpoint {'' if step is None else step} in {folder}; found {steps}")
        if step is None:
            best = _best_step(manager) if which == "best" else None
            step = steps[-1] if best is None else best
        return _restore_params(manager, step), _restore_description(manager, step, Description), step
    finally:
        manager.close()


def _load_exported(folder: pathlib.Path) -> tuple[Params, Description, int]:
    try:
        params, header = load_prompts(folder)
        return params, Description.model_validate(header.description), header.step
    except pydantic.ValidationError as error:
        raise CheckpointError(f"{folder / PROMPTS} was written by another version: {error}") from error
    except PromptFileError as error:
        raise CheckpointError(str(error)) from error


def _find(path: pathlib.Path) -> tuple[pathlib.Path, int | None]:
    if path.name.startswith(f"{_PREFIX}_") and path.name.removeprefix(f"{_PREFIX}_").isdigit() and path.is_dir():
        return path.parent, int(path.name.removeprefix(f"{_PREFIX}_"))
    for folder in (path / FOLDER, path):
        if folder.is_dir() and any(folder.glob(f"{_PREFIX}_*")):
            return folder, None
    raise CheckpointError(
        f"no checkpoint at {path}: expected a workdir with {FOLDER}/{_PREFIX}_N, that {FOLDER} folder, one "
        f"{_PREFIX}_N folder, or exported prompts ({PROMPTS}); train first, or correct the path"
    )


def _restore_params(manager: Any, step: int) -> Params:
    with _naming_the_checkpoint(manager, step):
        like = dict(manager.item_metadata(step)["params"].items())
    return _restore_params_like(manager, step, like)


def _restore_params_like(manager: Any, step: int, like: Params) -> Params:
    template = {name: np.empty(leaf.shape, leaf.dtype) for name, leaf in like.items()}
    with _naming_the_checkpoint(manager, step):
        args = ocp.args.Composite(params=storage.restore_arrays(manager, template))
        return manager.restore(step, args=args)["params"]


def _restore_description(manager: Any, step: int, kind: type[D]) -> D:
    with _naming_the_checkpoint(manager, step):
        restored = manager.restore(step, args=ocp.args.Composite(description=ocp.args.JsonRestore()))
        return kind.model_validate(restored["description"])


@contextlib.contextmanager
def _naming_the_checkpoint(manager: Any, step: int) -> Generator[None]:
    try:
        yield
    except Exception as error:  # what damaged files raise in Orbax and TensorStore has no common base
        folder, steps = manager.directory / f"{_PREFIX}_{step}", ", ".join(map(str, sorted(manager.all_steps())))
        raise UnreadableError(
            f"{folder} cannot be read ({type(error).__name__}: {error}). Copy it again from where it came, or delete "
            f"that folder to use another checkpoint; there are those of the steps {steps}"
        ) from error


def warm_start(
    fresh: Params, description: Description, saved: Params, saved_description: Description
) -> tuple[Params, list[str]]:
    """Takes from a checkpoint what fits another run: another dataset, other classes.

    Args:
      fresh: the new run's initial prompts.
      description: of the new run.
      saved: the checkpoint's prompts.
      saved_description: the checkpoint's.

    Returns:
      The prompts to start from, and for each parameter a line that says what was taken. Classes are the same where
      they are the same expression (`expressions.map_classes`).

    Raises:
      ConfigError: two classes of one side are the same expression.
    """
    params = dict(fresh)
    notes: list[str] = []
    for name, value in fresh.items():
        old = saved.get(name)
        if old is None:
            notes.append(f"{name}: not in the checkpoint, starts fresh")
        elif name == "ctx" and old.ndim == value.ndim == 3 and old.shape[1:] == value.shape[1:]:
            rows, saved_rows = _common_classes(description.class_names, saved_description.class_names)
            params[name] = jnp.asarray(value).at[np.array(rows, np.int32)].set(old[saved_rows])
            taken = ", ".join(description.class_names[row] for row in rows)
            notes.append(f"{name}: taken for {taken or 'no class'}; the others start fresh")
        elif old.shape != value.shape:
            notes.append(f"{name}: shape {tuple(old.shape)} does not fit {tuple(value.shape)}, starts fresh")
        elif name == "visual_prompts" and (there := _layers(saved_description, old)) != _layers(description, value):
            notes.append(f"{name}: of the layers {there}, not {_layers(description, value)}, starts fresh")
        else:
            params[name] = jnp.asarray(old)
            notes.append(f"{name}: taken, shape {tuple(old.shape)}")
    unused = sorted(set(saved) - set(fresh))
    notes += [f"{name}: in the checkpoint, not used here" for name in unused]
    return params, notes


def _common_classes(class_names: tuple[str, ...], saved_names: tuple[str, ...]) -> tuple[list[int], list[int]]:
    """The classes that both have: their rows in the one order and, in the same sequence, in the other."""
    try:
        saved_rows = map_classes(class_names, saved_names)
    except ValueError as error:
        raise ConfigError(f"config.train.warm_start: the classes cannot be matched: {error}") from error
    rows: list[int] = np.flatnonzero(saved_rows >= 0).tolist()
    return rows, saved_rows[rows].tolist()


def _layers(description: Description, visual_prompts: Any) -> list[int]:
    return list(description.config["visual_prompts"]["layers"]) or list(range(1, len(visual_prompts) + 1))
