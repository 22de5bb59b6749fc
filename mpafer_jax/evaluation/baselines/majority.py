"""Majority-class baseline."""

from __future__ import annotations

import numpy as np

from mpafer_jax.evaluation.baselines.registry import Context, Result, baseline
from mpafer_jax.evaluation.metrics import ClassificationMetrics, from_confusion


@baseline("majority", "majority class of train", features="no split")
def compute(context: Context) -> Result:
    """Predicts the most frequent class of train (the first, if tied). It has no logits, so its cross-entropy is 0."""
    answer = int(np.argmax(context.dataset.train.class_counts()))
    results: dict[str, ClassificationMetrics] = {}
    for split in context.dataset.held_out:
        confusion = np.zeros((len(split.class_names),) * 2)
        confusion[:, answer] = split.class_counts()
        results[split.name] = from_confusion(confusion, 0.0, split.class_names)
    return results, {}
