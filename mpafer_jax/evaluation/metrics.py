"""Classification metrics from a confusion matrix."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mpafer_jax.evaluation.groups import Group, by_attribute
from mpafer_jax.runtime.errors import NonFiniteError
from mpafer_jax.runtime.finite import check_rows


@dataclasses.dataclass(frozen=True)
class ClassificationMetrics:
    """Metrics of one evaluation, as fractions of 1.

    Attributes:
      war: weighted average recall (accuracy).
      uar: unweighted average recall: mean recall of the classes that occur.
      macro_f1: mean F1 of the classes that occur.
      cross_entropy: mean, in nats.
      count: number of images.
      recall: by class name; None for a class that does not occur.
      confusion: [C][C] counts; rows are the true classes, columns the predicted ones.
      class_names: C names, in the order of rows and columns.
      groups: metrics by attribute of the images, see `groups.by_attribute`; empty without attributes.
    """

    war: float
    uar: float
    macro_f1: float
    cross_entropy: float
    count: int
    recall: dict[str, float | None]
    confusion: list[list[int]]
    class_names: tuple[str, ...]
    groups: dict[str, tuple[Group, ...]] = dataclasses.field(default_factory=dict[str, tuple[Group, ...]])

    def scalars(self) -> dict[str, float]:
        """The scalar metrics, for curves and checkpoint selection."""
        return {"war": self.war, "uar": self.uar, "macro_f1": self.macro_f1, "cross_entropy": self.cross_entropy}

    def to_dict(self) -> dict[str, Any]:
        """All metrics, ready for JSON; "groups" only where there are some."""
        values = {**dataclasses.asdict(self), "class_names": list(self.class_names)}
        return {name: value for name, value in values.items() if name != "groups" or value}


def from_logits(
    logits: npt.ArrayLike,
    labels: npt.NDArray[np.integer],
    class_names: Sequence[str],
    *,
    names: Sequence[str] | npt.NDArray[np.str_] = (),
    attributes: Mapping[str, npt.NDArray[np.str_]] | None = None,
) -> ClassificationMetrics:
    """Metrics of a whole split.

    Args:
      logits: [n, C].
      labels: int[n], the true classes.
      class_names: C names.
      names: n image names for error messages; empty to number the images.
      attributes: str[n] by name, of the images; None for no metrics by group.

    Raises:
      NonFiniteError: a logit is NaN or infinite.
      ValueError: n is 0.
    """
    scores = np.asarray(logits, np.float64)
    check_rows("logits", scores, names if len(names) else [f"image {number}" for number in range(len(scores))])
    confusion = np.zeros((len(class_names), len(class_names)))
    answers = scores.argmax(axis=1)
    np.add.at(confusion, (labels, answers), 1)
    log_normalizer = np.logaddexp.reduce(scores, axis=1)
    cross_entropy = float(np.sum(log_normalizer - scores[np.arange(len(labels)), labels]))
    measured = from_confusion(confusion, cross_entropy, class_names)
    return dataclasses.replace(measured, groups=by_attribute(answers, labels, class_names, attributes or {}))


def from_confusion(
    confusion: npt.ArrayLike, cross_entropy_sum: float, class_names: Sequence[str]
) -> ClassificationMetrics:
    """Metrics from a confusion matrix.

    Args:
      confusion: [C, C] counts; rows are the true classes.
      cross_entropy_sum: over all images, in nats.
      class_names: C names.

    Raises:
      NonFiniteError: the cross-entropy is NaN or infinite.
      ValueError: the matrix counts no image.
    """
    if not np.isfinite(cross_entropy_sum):
        raise NonFiniteError(
            f"the cross-entropy is {cross_entropy_sum}, so logits were NaN or infinite; compute in float32 "
            "(clip.dtype), and see whether the checkpoint is of a run that went well"
        )
    counts = np.rint(np.asarray(confusion, np.float64)).astype(np.int64)
    total = int(counts.sum())
    if not total:
        raise ValueError(f"nothing was evaluated: no image of the classes {', '.join(class_names)}")
    hits, support, predicted = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    occurs = support > 0
    recalls = hits[occurs] / support[occurs]
    f1 = 2 * hits[occurs] / (support[occurs] + predicted[occurs])
    return ClassificationMetrics(
        war=float(hits.sum() / total),
        uar=float(recalls.mean()),
        macro_f1=float(f1.mean()),
        cross_entropy=float(cross_entropy_sum / total),
        count=total,
        recall={name: float(h / n) if n else None for name, h, n in zip(class_names, hits, support, strict=True)},
        confusion=counts.tolist(),
        class_names=tuple(class_names),
    )


def softmax(logits: npt.NDArray[np.floating]) -> npt.NDArray[Any]:
    """Probabilities [n, C] of logits [n, C], in the logits' precision."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)
