"""Warm start: initial prompts from another run's checkpoint, of another dataset or other classes."""

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
    """Takes from a checkpoint (`saved`) what fits a new run, whose initial prompts are `fresh`.

    Returns:
      The initial prompts, and a line per parameter on what was taken. Classes are matched by their synonyms
      (`expressions.map_classes`).

    Raises:
      ConfigError: none of the checkpoint's parameters is one of the run's or fits it, or two classes of one side are
        the same expression.
    """

    if not fresh.keys() & saved.keys():
        raise ConfigError(
            f"config.train.warm_start: the checkpoint, of another method, holds {', '.join(sorted(saved))}, and this "
            f"run trains {', '.join(sorted(fresh))}; nothing would be taken from it. Name one of this method"
        )

    def rows() -> tuple[list[int], list[int], list[str]]:
        return _common_classes(description.class_names, saved_description.class_names)

    params, notes, taken = dict(fresh), list[str](), False
    for name, value in fresh.items():
        if name not in saved:
            notes.append(f"{name}: not in the checkpoint, starts fresh")
            continue
        adapted, note = learner.adapt(name, value, saved[name], saved_description.model_sections(), rows)
        notes.append(f"{name}: {note}")
        if adapted is not None:
            params[name], taken = adapted, True
    if not taken:
        raise ConfigError(
            f"config.train.warm_start: nothing would be taken from the checkpoint: {'; '.join(notes)}. Name one whose "
            "CLIP, prompts and classes fit this run, or leave the field empty"
        )
    return params, [*notes, *(f"{name}: in the checkpoint, not used here" for name in sorted(set(saved) - set(fresh)))]


def _common_classes(
    class_names: tuple[str, ...], saved_names: tuple[str, ...]
) -> tuple[list[int], list[int], list[str]]:
    """The common classes: their rows in each order, and their names."""
    try:
        saved_rows = map_classes(class_names, saved_names)
    except ValueError as error:
        raise ConfigError(f"config.train.warm_start: the classes cannot be matched: {error}") from error
    rows: list[int] = np.flatnonzero(saved_rows >= 0).tolist()
    return rows, saved_rows[rows].tolist(), [class_names[row] for row in rows]
