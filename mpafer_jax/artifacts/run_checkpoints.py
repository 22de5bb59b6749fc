"""Checkpoints: Orbax folders of prompts, optimizer state and a self-contained description.

<workdir>/checkpoints/step_120/params        the prompts: all that prediction needs besides CLIP
                               opt_state     what training needs besides to resume
                               description   see `description.Description`, and SHA-256 digests of all else
                               interval      pending metrics, only if the run was interrupted: see `save`
                               confidence.npz   calibration of the reported checkpoint: see `confidence.Confidence`

Everything read is verified by the digests.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import time
from collections.abc import Generator, Mapping, Sequence
from typing import Any, TypeVar, cast

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers

from mpafer_jax.artifacts import run_dir, storage
from mpafer_jax.artifacts.description import Described, Description
from mpafer_jax.artifacts.prompt_file import Params, check_types
from mpafer_jax.artifacts.run_dir import CHECKPOINTS, STEP, VISIBLE_SECONDS, Which
from mpafer_jax.method.state import TrainState
from mpafer_jax.runtime import devices, distributed, files
from mpafer_jax.runtime.arrays import digests as digests_of
from mpafer_jax.runtime.errors import CheckpointError, NonFiniteError, UnreadableError
from mpafer_jax.runtime.finite import not_finite

_DIGESTS = "sha256"  # field beside the description's: digests of every array, the description and the interval
_SELECTED = "selected"  # saved metric that chooses the best checkpoint
_PENDING = "pending"  # saved metric of a step that is still to be evaluated
_POLL_SECONDS = 1.0

Digests = dict[str, str]  # name -> SHA-256 in hexadecimal
StepMetrics = Mapping[str, tuple[float, float]]  # of one step on the host: name -> (sum, count)
D = TypeVar("D", bound=Described)


def _open(folder: pathlib.Path, *, keep: int, clean: bool) -> Any:
    best = checkpoint_managers.BestN(get_metric_fn=cast(Any, _rank), n=1)
    options = {
        "best_fn": _rank,
        "preservation_policy": checkpoint_managers.AnyPreservationPolicy([checkpoint_managers.LatestN(keep), best]),
        "step_prefix": STEP,
        "cleanup_tmp_directories": clean,
    }
    others = {name: ocp.JsonCheckpointHandler() for name in ("description", "interval")}
    return storage.open_manager(folder, ("params", "opt_state"), others, options)


def _rank(metrics: Mapping[str, float]) -> tuple[float, float]:
    """Sort key: the best on validation highest, of ties the earliest."""
    if _SELECTED in metrics:
        return metrics[_SELECTED], -metrics["step"]
    return -1.0, metrics["step"]  # not evaluated: below all that were


def _best_step(manager: Any) -> int | None:
    step = manager.best_step()
    return step if step is not None and _SELECTED in manager.metrics(step) else None


class Checkpoints:
    """The checkpoints of one run: saved in the background; keeps the newest few and the best."""

    def __init__(self, workdir: pathlib.Path, *, keep: int, select_by: str) -> None:
        """Opens or creates the folder.

        Args:
          workdir: of the run.
          keep: number of newest checkpoints to keep, besides the best.
          select_by: validation metric that selects the best, the earliest of ties; '' for none.
        """
        self._select_by, self._folder = select_by, workdir / CHECKPOINTS
        self._manager = _open(self._folder, keep=keep, clean=True)

    def save(
        self,
        state: TrainState,
        description: Described,
        validation: Mapping[str, float] | None,
        interval: Sequence[StepMetrics] = (),
        *,
        pending: bool = False,
    ) -> None:
        """Starts saving; all processes must call it.

        Args:
          state: to save.
          description: of the run.
          validation: metrics of an evaluation at this step, if there was one.
          interval: pending metrics of an interrupted logging interval, one entry per step, so that a resumed run writes
            the same lines.
          pending: whether an evaluation of this step is still to come, see `complete`.

        Raises:
          CheckpointError: saving this checkpoint or the previous one failed.
          NonFiniteError: a parameter or the optimizer state is NaN or infinite.
        """
        step = int(devices.to_host(state.step))
        arrays = devices.to_host({"params": state.params, "opt_state": state.opt_state})
        if broken := not_finite(arrays):
            raise NonFiniteError(
                f"after step {step} numbers are NaN or infinite: {', '.join(broken)}; this step is not saved. Lower "
                "optimizer.learning_rate, or set optimizer.clip_norm"
            )
        saved = digests_of(arrays)
        if differing := distributed.disagreement(files.json_digest(saved)):
            # A warning only: what several GPUs compute of the same numbers may differ by rounding.
            logging.warning(
                "after step %d the processes of this run hold different parameters, by their SHA-256: %s. Process 0's "
                "are saved. If all hosts have the same checkout, packages and files, and the losses are as they should "
                "be, it may be rounding alone",
                step,
                differing,
            )
        described = description.model_dump(mode="json")
        waiting = {"steps": [dict(terms) for terms in interval]}
        digests = {**saved, "description": files.json_digest(described)}
        if interval:
            digests["interval"] = files.json_digest(waiting)
        metrics = {**self._metrics(step, validation), **({_PENDING: 1.0} if pending else {})}
        items = {
            "params": storage.save_arrays(self._manager, devices.to_global(state.params)),
            "opt_state": storage.save_arrays(self._manager, devices.to_global(state.opt_state)),
            "description": ocp.args.JsonSave({**described, _DIGESTS: digests}),
        }
        if interval:
            items["interval"] = ocp.args.JsonSave(waiting)
        with self._saying_what_is_left():
            if not self._manager.save(step, args=ocp.args.Composite(**items), metrics=storage.sealed(metrics)):
                raise RuntimeError(f"step {step} was to be saved, but step {self._manager.latest_step()} is there")

    def _metrics(self, step: int, validation: Mapping[str, float] | None) -> dict[str, float]:
        if validation is None or not self._select_by:
            return {"step": step}
        return {"step": step, **validation, _SELECTED: validation[self._select_by]}

    def is_pending(self) -> bool:
        """Whether the newest checkpoint was saved `pending`, and was not completed since."""
        step = self._manager.latest_step()
        return step is not None and _PENDING in self._manager.metrics(step)

    def complete(self, validation: Mapping[str, float]) -> None:
        """Gives the newest checkpoint the metrics of its evaluation; all processes must call it.

        Raises:
          CheckpointError: a process does not see them.
        """
        step = self._manager.latest_step()
        path = self._folder / f"{STEP}_{step}" / "metrics" / "metrics"  # as Orbax names it
        if distributed.is_first():
            files.write_text(path, json.dumps(storage.sealed(self._metrics(step, validation))))
        distributed.wait_for_all(f"evaluation of step {step}")
        deadline = time.monotonic() + VISIBLE_SECONDS
        while self.is_pending() and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        if not distributed.all_agree(not self.is_pending()):
            raise CheckpointError(
                f"not all processes of this run see what process 0 has written to {path}. Wait until all hosts see the "
                "same files there, and run the same command again"
            )
        self._manager.reload()

    def latest_description(self, kind: type[D]) -> D | None:
        """Description of the newest checkpoint, or None if there is none."""
        step = self._manager.latest_step()
        return None if step is None else _restore_description(self._manager, step, kind)[0]

    def latest_interval(self) -> list[StepMetrics]:
        """`interval` of the newest checkpoint."""
        step = self._manager.latest_step()
        return [] if step is None else _restore_interval(self._manager, step, _restore_digests(self._manager, step))

    def restore_latest(self, state: TrainState, description: Described) -> TrainState | None:
        """The newest readable state, on the devices, or None if nothing was saved yet; `state` gives the structure.

        Newer checkpoints that are damaged are renamed to `unreadable-step_N`, with a warning. All processes must call
        it.

        Raises:
          UnreadableError: all checkpoints are damaged; none is renamed.
          CheckpointError: the configuration or something that must be `unchanged` differs from the checkpoint's, or the
            processes do not see the same checkpoints.
        """
        newest_error: UnreadableError | None = None
        steps = self._common_steps()
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
            # Another process may fail to read what this one can.
            error = error or UnreadableError(f"step {step} cannot be read by another process of this run")
            logging.warning("falling back from step %d: %s", step, error)
            newest_error = newest_error or error
        if newest_error is not None:
            raise newest_error
        return None

    def _common_steps(self) -> list[int]:
        """The steps, newest first, once all processes see those that process 0 sees."""

        def seen() -> list[int]:
            return sorted(cast(list[int], self._manager.all_steps()), reverse=True)

        steps = seen()
        first: list[int] = json.loads(distributed.broadcast_text(json.dumps(steps)))
        deadline = time.monotonic() + VISIBLE_SECONDS
        while steps != first and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            self._manager.reload()
            steps = seen()
        if differing := distributed.disagreement(f"the steps {steps}"):
            raise CheckpointError(
                f"the processes of this run see different checkpoints in {self._manager.directory}: {differing}. Wait "
                "until all hosts see the same files there, and run the same command again"
            )
        return steps

    def _set_aside(self, step: int) -> None:
        folder = self._manager.directory / f"{STEP}_{step}"
        if distributed.is_first():
            files.rename_folder(folder, f"unreadable-{folder.name}")
        distributed.wait_for_all(f"set aside {step}")
        self._manager.reload()

    def _restore(self, step: int, state: TrainState, description: Described) -> TrainState:
        described, digests = _restore_description(self._manager, step, type(description))
        # The folder may have no config.json, as where only checkpoints were copied there.
        if differing := run_dir.differences(description.config_kind, described.config, description.config):
            folder = self._manager.directory / f"{STEP}_{step}"
            raise CheckpointError(run_dir.other_configuration(f"{folder} was saved by a run", differing))
        before = described.unchanged()
        for what, now in description.unchanged().items():
            then = before.get(what, now)  # earlier versions may not have recorded it
            if then != now:
                raise CheckpointError(
                    f"cannot resume after step {step}: {what} changed since it was saved (then {then}, now {now}); "
                    "put the old files back, or start again in another workdir"
                )
        _restore_interval(self._manager, step, digests)  # verified now
        host = devices.to_host(state)
        restored = _restore_arrays(self._manager, step, {"params": host.params, "opt_state": host.opt_state}, digests)
        return devices.replicate(TrainState(jnp.asarray(step, jnp.int32), restored["params"], restored["opt_state"]))

    def best_step(self) -> int | None:
        """The step that was best on validation, or None if no kept checkpoint was evaluated."""
        return _best_step(self._manager)

    def restore_params(self, step: int, like: Params) -> Params:
        """The prompts of a step, as NumPy arrays; `like` gives names, shapes and types."""
        # Not `_restore_params`: in a bucket, Orbax takes items for unfinished when a process other than 0 reads their
        # metadata from a manager that has saved.
        return _restore_params_like(self._manager, step, like, _restore_digests(self._manager, step))

    def wait(self) -> None:
        """Waits for saves in progress.

        Raises:
          CheckpointError: one failed.
        """
        with self._saying_what_is_left():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _saying_what_is_left(self) -> Generator[None]:
        try:
            yield
        except Exception as error:  # Orbax's and TensorStore's errors of a full disk have no common base
            folder: Any = self._manager.directory
            finished = sorted(path.name for path in folder.glob(f"{STEP}_*") if "tmp" not in path.name)
            raise CheckpointError(
                f"a checkpoint cannot be written in {folder} ({type(error).__name__}: {error}). Those written before "
                f"are intact: {', '.join(finished) or 'none'}; make room there, or mend what is broken, and run the "
                "same command again"
            ) from error

    def close(self) -> None:
        """Waits for async saves and closes the manager."""
        self._manager.close()


def is_begun(workdir: pathlib.Path) -> bool:
    """Whether a workdir holds checkpoints to resume from."""
    return any((workdir / CHECKPOINTS).glob(f"{STEP}_*"))


def load(folder: pathlib.Path, step: int | None, which: Which) -> tuple[Params, Description, int]:
    """Reads one checkpoint of a folder of them: a step, or the one that `which` means; see `checkpoints.load`."""
    manager = _open(folder, keep=1, clean=False)  # a run may be saving there: delete nothing
    try:
        steps: list[int] = sorted(manager.all_steps())
        if not steps or (step is not None and step not in steps):
            raise CheckpointError(f"no finished checkpoint {'' if step is None else step} in {folder}; found {steps}")
        if step is not None:
            return _load_step(manager, step)
        best = _best_step(manager) if which == "best" else None
        wanted = [*([] if best is None else [best]), *(number for number in reversed(steps) if number != best)]
        first_error: UnreadableError | None = None
        for candidate in wanted:
            try:
                return _load_step(manager, candidate)
            except UnreadableError as error:
                logging.warning("falling back from step %d: %s", candidate, error)
                first_error = first_error or error
        assert first_error is not None
        raise first_error
    finally:
        manager.close()


def _load_step(manager: Any, step: int) -> tuple[Params, Description, int]:
    description, digests = _restore_description(manager, step, Description)
    params = _restore_params(manager, step, digests)
    with _naming_the_checkpoint(manager, step):
        check_types(params)
    return params, description, step


def _restore_params(manager: Any, step: int, digests: Digests) -> Params:
    with _naming_the_checkpoint(manager, step):
        like = dict(manager.item_metadata(step)["params"].items())
    return _restore_params_like(manager, step, like, digests)


def _restore_params_like(manager: Any, step: int, like: Params, digests: Digests) -> Params:
    template = {name: np.empty(leaf.shape, leaf.dtype) for name, leaf in like.items()}
    return _restore_arrays(manager, step, {"params": template}, digests)["params"]


def _restore_arrays(manager: Any, step: int, templates: Mapping[str, Any], digests: Digests) -> dict[str, Any]:
    with _naming_the_checkpoint(manager, step):
        restored = storage.restore_arrays(manager, step, templates)
        _compare(digests, digests_of(restored))
        return restored


def _restore_interval(manager: Any, step: int, digests: Digests) -> list[StepMetrics]:
    if "interval" not in digests and not (manager.directory / f"{STEP}_{step}" / "interval").exists():
        return []
    with _naming_the_checkpoint(manager, step):
        restored = manager.restore(step, args=ocp.args.Composite(interval=ocp.args.JsonRestore()))["interval"]
        _compare(digests, {"interval": files.json_digest(restored)})
        return restored["steps"]


def _restore_described(manager: Any, step: int) -> tuple[dict[str, Any], Digests]:
    """The description as stored, and the digests."""
    with _naming_the_checkpoint(manager, step):
        restored = manager.restore(step, args=ocp.args.Composite(description=ocp.args.JsonRestore()))
        described = dict(restored["description"])
        digests: Digests = described.pop(_DIGESTS)
        _compare(digests, {"description": files.json_digest(described)})
        return described, digests


def _restore_digests(manager: Any, step: int) -> Digests:
    return _restore_described(manager, step)[1]


def _restore_description(manager: Any, step: int, kind: type[D]) -> tuple[D, Digests]:
    described, digests = _restore_described(manager, step)
    if kind is Description and "vocab_size" in described:
        raise CheckpointError(
            f"{manager.directory} is of a CLIP's pretraining, which knows no expressions. Its CLIP is in "
            f"{manager.directory.parent / 'clip'} once it has ended: predict with --zero_shot, or train prompts for it "
            "(config.clip.name)"
        )
    with _naming_the_checkpoint(manager, step):
        return kind.model_validate(described), digests


def _compare(saved: Digests, read: Digests) -> None:
    """Raises ValueError if a digest differs from the saved one."""
    changed = [name for name, digest in read.items() if saved.get(name) != digest]
    if changed:
        raise ValueError(f"not what was saved, by its SHA-256: {', '.join(changed)}")


@contextlib.contextmanager
def _naming_the_checkpoint(manager: Any, step: int) -> Generator[None]:
    try:
        yield
    except Exception as error:  # Orbax's and TensorStore's errors of damaged files have no common base
        folder, steps = manager.directory / f"{STEP}_{step}", ", ".join(map(str, sorted(manager.all_steps())))
        raise UnreadableError(
            f"{folder} cannot be read ({type(error).__name__}: {error}). Copy it again from where it came, or delete "
            f"that folder to use another checkpoint; there are those of the steps {steps}"
        ) from error
