"""Checks for NaN and infinite numbers.

Needed because a comparison with NaN is false: argmax would return the first class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mpafer_jax.runtime.arrays import named
from mpafer_jax.runtime.errors import NonFiniteError

HostMetrics = Mapping[str, tuple[Any, Any]]  # of one step, on the host: name -> (sum, count)


def not_finite(tree: Any) -> list[str]:
    """Names and counts of non-finite numbers in a tree of arrays (or one array): 'ctx (3 of 5120)'."""
    broken: list[str] = []
    for name, leaf in named(tree):
        array = np.asarray(leaf)
        wrong = array.size - int(np.count_nonzero(np.isfinite(array)))
        if wrong:
            broken.append(f"{name} ({wrong} of {array.size})".lstrip())
    return broken


def finite_rows(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """[n]: whether all of values[i] are finite, for values [n, ..]."""
    finite: npt.NDArray[np.bool_] = np.isfinite(values).reshape(len(values), -1)
    return np.logical_and.reduce(finite, axis=1)


def check_rows(what: str, values: npt.NDArray[Any], names: Sequence[Any] | npt.NDArray[Any]) -> None:
    """Refuses non-finite numbers of images.

    Args:
      what: name of the numbers, for the message ("logits").
      values: [n, ..], a row for each image.
      names: n names of images.

    Raises:
      NonFiniteError: names the first such image.
    """
    wrong = np.flatnonzero(~finite_rows(values))
    if len(wrong):
        raise NonFiniteError(
            f"the {what} of {len(wrong)} of {len(values)} images are NaN or infinite, first those of "
            f"{names[int(wrong[0])]}; compute in float32 (clip.dtype), and see whether the checkpoint is of a run that "
            "went well"
        )


def check_metrics(metrics: Sequence[HostMetrics], last_step: int) -> None:
    """Refuses non-finite metrics of consecutive steps, the last of which is `last_step`.

    Raises:
      NonFiniteError: names the first such step and its non-finite terms.
    """
    for step, terms in enumerate(metrics, start=last_step - len(metrics) + 1):
        broken = {name: float(total) for name, (total, _) in terms.items() if not np.isfinite(total)}
        if broken:
            raise NonFiniteError(
                f"step {step}: not finite: {broken}; nothing was saved since. Lower optimizer.learning_rate, set "
                "optimizer.clip_norm, or compute in float32 (clip.dtype)"
            )
