"""A warm start: which of a checkpoint's prompts fit another run, of another dataset or other classes."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from mpafer_jax.artifacts.checkpoints import Params
from mpafer_jax.artifacts.description import Description
from mpafer_jax.config.expressions import map_classes
from mpafer_jax.runtime.errors import ConfigError


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
