"""Reads checkpoints: those of a run (`run_checkpoints`) and exported prompts (`prompt_file`)."""

from __future__ import annotations

import os
import pathlib

import pydantic

from mpafer_jax.artifacts import shipped
from mpafer_jax.artifacts.description import Description
from mpafer_jax.artifacts.not_a_checkpoint import what_is_there
from mpafer_jax.artifacts.prompt_file import PROMPTS, Params, check_types, load_prompts
from mpafer_jax.artifacts.run_dir import CHECKPOINTS, STEP, Which, step_of
from mpafer_jax.runtime import distributed, files
from mpafer_jax.runtime.arrays import digests
from mpafer_jax.runtime.errors import CheckpointError, did_you_mean

SEVERAL = "a folder of several checkpoints"


def place(path: str | os.PathLike[str]) -> pathlib.Path:
    """The path of a checkpoint, on a disk or in a bucket; a string may name shipped prompts, before any folder.

    Raises:
      ConfigError: see `files.any_path`.
    """
    if isinstance(path, str) and path in shipped.PROMPTS:
        return shipped.PROMPTS[path]
    return files.any_path(path, "the checkpoint")


def load(path: str | os.PathLike[str], which: Which) -> tuple[Params, Description, int]:
    """Reads a checkpoint for prediction or a warm start; all processes of a run must call it.

    Args:
      path: a workdir, its `checkpoints` folder, one `step_N` folder, or a folder of exported prompts; on a disk or in
        a bucket. Or a name of `shipped.PROMPTS`.
      which: the best on validation (the last if none was evaluated) or the last. If that one is damaged, the newest
        readable one, with a warning.

    Returns:
      The prompts as NumPy arrays, the description, the step.

    Raises:
      CheckpointError: there is none, or the named one, or all, cannot be read, or the processes have read different
        ones.
      ConfigError: its bucket cannot be reached.
    """
    try:
        at = place(path)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    with files.reaching(at, "the checkpoint"):
        exported = (at / PROMPTS).is_file()
    if exported:
        loaded = _load_exported(at)
    else:
        from mpafer_jax.artifacts import run_checkpoints  # here, since Orbax takes a second to import

        loaded = run_checkpoints.load(*_find(at), which)
    if distributed.is_one_of_many():  # asked first: elsewhere JAX's devices may not be wanted yet
        params, _, step = loaded
        found = f"step {step} (SHA-256 {files.json_digest(digests(params))[:16]})"
        if differing := distributed.disagreement(found):
            raise CheckpointError(
                f"the processes of this run have read different checkpoints at {at}: {differing}. Wait until no run "
                f"writes there and all hosts see the same files, or name one {STEP}_N folder"
            )
    return loaded


def folder(path: str | os.PathLike[str], step: int) -> pathlib.Path:
    """Folder of the checkpoint that `load` has read from `path`: its step_N, or the one of exported prompts."""
    at = place(path)
    return at if (at / PROMPTS).is_file() else _find(at)[0] / f"{STEP}_{step}"


def _load_exported(folder: pathlib.Path) -> tuple[Params, Description, int]:
    try:
        params, header = load_prompts(folder)
        description = Description.model_validate({**header.description, "last_step": header.last_step})
        check_types(params)
        return params, description, header.step
    except pydantic.ValidationError as error:
        raise CheckpointError(f"{folder / PROMPTS} was written by another version: {error}") from error
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{folder / PROMPTS}: {error}") from error


def holds_one(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a single checkpoint (a `step_N` folder or exported prompts), with no choice of best or last."""
    try:
        at = place(path)
    except ValueError:  # reported by `load`
        return False
    return _step_at(at) is not None or (at / PROMPTS).is_file()


def holds_any(path: str) -> bool:
    """Whether a path of this machine is a checkpoint or a folder of some, or a name is of shipped prompts."""
    at = shipped.PROMPTS.get(path) or files.home_expanded(path)
    return (at / PROMPTS).is_file() or _located(at) is not None


def is_last(path: str | os.PathLike[str], which: Which, description: Description) -> bool:
    """Whether a checkpoint that `load` has read is known to be its run's last step, not a chosen one.

    Args:
      path, which: as for `load`; of a single checkpoint `which` says nothing.
      description: from `load`.
    """
    return description.last_step if holds_one(path) else which == "last"


def chosen_on_test(path: str | os.PathLike[str], which: Which, description: Description) -> bool:
    """Whether the test split may have chosen a checkpoint, by `eval.select_on_test_split`; arguments as of `is_last`.

    A single `step_N` of such a run counts as chosen, as it does not say which of them it was.
    """
    return description.config["eval"]["select_on_test_split"] and not is_last(path, which, description)


def _step_at(path: pathlib.Path) -> int | None:
    return step_of(path) if path.is_dir() else None


def _located(path: pathlib.Path) -> tuple[pathlib.Path, int | None] | None:
    """The folder of checkpoints that a path is of, and the step that it names; None if it is of none."""
    if (step := _step_at(path)) is not None:
        return path.parent, step
    for folder in (path / CHECKPOINTS, path):
        if folder.is_dir() and any(folder.glob(f"{STEP}_*")):
            return folder, None
    return None


def _find(path: pathlib.Path) -> tuple[pathlib.Path, int | None]:
    if located := _located(path):
        return located
    raise CheckpointError(
        f"no checkpoint at {path}: {what_is_there(path, CHECKPOINTS)}. Expected a workdir with {CHECKPOINTS}/{STEP}_N, "
        f"that {CHECKPOINTS} folder, one {STEP}_N folder, exported prompts ({PROMPTS}), or those that ship with the "
        f"package ({', '.join(shipped.PROMPTS)}){did_you_mean(path.name, shipped.PROMPTS)}"
    )
