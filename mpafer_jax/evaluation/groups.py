"""Accuracy and recall by group: for each value of an attribute, such as gender, race or age."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from mpafer_jax.data.records import MAX_GROUPS
from mpafer_jax.evaluation.statistics import mean_interval, wilson
from mpafer_jax.runtime.texts import natural_order


@dataclasses.dataclass(frozen=True)
class Group:
    """Metrics of the images with one value of an attribute, as fractions of 1.

    Attributes:
      value: of the attribute; "" for images without one.
      count: number of images.
      war: accuracy.
      war_interval: its 95% confidence interval (Wilson).
      uar: mean recall of the classes that occur in the group.
      uar_interval: its 95% confidence interval (`statistics.mean_interval`).
      hits, support: by class name: images that are classified correctly, and all.
    """

    value: str
    count: int
    war: float
    war_interval: tuple[float, float]
    uar: float
    uar_interval: tuple[float, float]
    hits: dict[str, int]
    support: dict[str, int]

    @classmethod
    def of(
        cls, value: str, answers: npt.NDArray[np.integer], labels: npt.NDArray[np.integer], class_names: Sequence[str]
    ) -> Group:
        """Metrics of n > 0 images.

        Args:
          value: of the attribute.
          answers, labels: int[n], the predicted and the true classes; an answer of -1 is none, and wrong.
          class_names: C names.
        """
        support = np.bincount(labels, minlength=len(class_names))
        hits = np.bincount(labels[answers == labels], minlength=len(class_names))
        occurs = support > 0
        low, high = wilson(hits.sum(), support.sum())
        return cls(
            value=value,
            count=len(labels),
            war=float(hits.sum() / support.sum()),
            war_interval=(float(low), float(high)),
            uar=float((hits[occurs] / support[occurs]).mean()),
            uar_interval=mean_interval(hits[occurs], support[occurs]),
            hits=dict(zip(class_names, hits.tolist(), strict=True)),
            support=dict(zip(class_names, support.tolist(), strict=True)),
        )


def by_attribute(
    answers: npt.NDArray[np.integer],
    labels: npt.NDArray[np.integer],
    class_names: Sequence[str],
    attributes: Mapping[str, npt.NDArray[np.str_]],
) -> dict[str, tuple[Group, ...]]:
    """Metrics by attribute and value, for attributes with 2 to `MAX_GROUPS` values.

    Args:
      answers, labels: int[n], the predicted and the true classes.
      class_names: C names.
      attributes: str[n] by name.

    Returns:
      By attribute the groups in the order of their values, numbers as numbers: "4-19" before "20-39".
    """
    found: dict[str, tuple[Group, ...]] = {}
    for attribute, column in attributes.items():
        values: list[str] = np.unique(column).tolist()
        if 2 <= len(values) <= MAX_GROUPS:
            members = {value: column == value for value in sorted(values, key=natural_order)}
            found[attribute] = tuple(
                Group.of(value, answers[inside], labels[inside], class_names) for value, inside in members.items()
            )
    return found
