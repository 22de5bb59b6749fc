"""The baseline that docs/methods.md shows, as it stands there."""

import re
from types import SimpleNamespace

import numpy as np

from mpafer_jax.evaluation.baselines.registry import BASELINES, Context
from tests.evaluation.baselines.validation import split
from tests.jobs import runs


def test_the_example_is_a_baseline():
    page = (runs.ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"### A baseline of your own\n.*?```python\n(.*?)```", page, re.DOTALL)
    exec(compile(code, "docs/methods.md", "exec"), {})
    added = BASELINES.pop("nearest_mean")
    assert (added.title, added.features) == ("nearest class mean", "all")

    # Normalised, the means lie at 0 and 45 degrees; the third image is nearer to the second one.
    features = {
        "train": split([[2, 0], [1, 0], [1, 1], [3, 3]], [0, 0, 1, 1]),
        "test": split([[9, 1], [1, 5], [2, 1.5]], [0, 1, 0]),
    }
    metrics, details = added.compute(Context(None, None, SimpleNamespace(class_names=("a", "b")), 1, features))
    np.testing.assert_array_equal(metrics["test"].confusion, [[1, 1], [0, 1]])
    assert (set(metrics), details) == ({"test"}, {})
