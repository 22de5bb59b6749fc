"""Frozen features by hand, and what baselines choose by."""

from types import SimpleNamespace

import numpy as np

from mpafer_jax.evaluation.baselines.registry import Context
from mpafer_jax.method.features import FrozenFeatures


def split(features, labels, classes=2) -> FrozenFeatures:
    labels = np.asarray(labels, np.int32)
    return FrozenFeatures(np.asarray(features, np.float32), labels, np.eye(classes, dtype=np.float32)[labels])


def score(validation: FrozenFeatures, select_by: str = "war"):
    """`Context.score` with these validation images."""
    names = tuple("abc"[: validation.label_distributions.shape[1]])
    config = SimpleNamespace(eval=SimpleNamespace(select_by=select_by))
    return Context(config, None, SimpleNamespace(class_names=names), 0, {"validation": validation}).score
