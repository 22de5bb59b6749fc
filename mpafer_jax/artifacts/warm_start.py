"""A warm start: which of a checkpoint's prompts fit another run, of another dataset or other classes."""

from __future__ import annotations

import numpy as np

from mpafer_jax.artifacts.checkpoints import Params
from mpafer_jax.artifacts.description import Description
from mpafer_jax.config.expressions import map_classes
from mpafer_jax.method.prompts import PromptLearner
from mpafer_jax.runtime.errors import ConfigError


def warm_start(
    learner: PromptLearner, fresh: Params, description: Description, saved: Params, saved_description: Description
) -> tuple[Params, list[str]]:
    """Takes from a checkpoint what fits another run: another dataset, other classes.

    Args:
      learner: of the new run, which says what fits.
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

    def rows() -> tuple[list[int], list[int], list[str]]:
        return _common_classes(description.class_names, saved_description.class_names)

    params, notes = dict(fresh), list[str]()
    for name, value in fresh.items():
        if name not in saved:
            notes.append(f"{name}: not in the checkpoint, starts fresh")
            continue
        params[name], note = learner.adapt(name, value, saved[name], saved_description.model_sections(), rows)
        notes.append(f"{name}: {note}")
    return params, [*notes, *(f"{name}: in the checkpoint, not used here" for name in sorted(set(saved) - set(fresh)))]


def _common_classes(
    class_names: tuple[str, ...], saved_names: tuple[str, ...]
) -> tuple[list[int], list[int], list[str]]:
    """The classes that both have: their rows in the one order and, in the same sequence, in the other; their names."""
    try:
        saved_rows = map_classes(class_names, saved_names)
    except ValueError as error:
        raise ConfigError(f"config.train.warm_start: the classes cannot be matched: {error}") from error
    rows: list[int] = np.flatnonzero(saved_rows >= 0).tolist()
    return rows, saved_rows[rows].tolist(), [class_names[row] for row in rows]
