"""Metrics by hand."""

import math

import numpy as np
import pytest

from mpafer_jax.evaluation.metrics import from_confusion, from_logits
from mpafer_jax.runtime.errors import NonFiniteError


def test_by_hand():
    # Rows are true: a 8 right of 10, b 1 right of 2, c never occurs but is predicted once.
    found = from_confusion([[8, 1, 1], [1, 1, 0], [0, 0, 0]], 6.0, ("a", "b", "c"))
    assert found.count == 12
    assert found.war == pytest.approx(9 / 12)
    assert found.uar == pytest.approx((0.8 + 0.5) / 2)
    f1_a = 2 * 8 / (10 + 9)
    f1_b = 2 * 1 / (2 + 2)
    assert found.macro_f1 == pytest.approx((f1_a + f1_b) / 2)
    assert found.cross_entropy == pytest.approx(0.5)
    assert found.recall == {"a": 0.8, "b": 0.5, "c": None}
    assert found.to_dict()["confusion"] == [[8, 1, 1], [1, 1, 0], [0, 0, 0]]


def test_numbers_that_are_not_finite_are_no_class():
    logits = np.array([[1.0, 0.0], [np.nan, 0.0], [np.inf, 0.0]])
    with pytest.raises(NonFiniteError, match=r"logits of 2 of 3 images .* first those of image 1"):
        from_logits(logits, np.array([0, 0, 0]), ("a", "b"))
    with pytest.raises(NonFiniteError, match="the cross-entropy is nan"):
        from_confusion([[1, 0], [0, 0]], math.nan, ("a", "b"))


def test_from_logits_by_hand():
    logits = [[math.log(3), 0.0], [0.0, math.log(3)], [0.0, math.log(7)]]
    found = from_logits(logits, np.array([0, 0, 1]), ("a", "b"))
    assert found.confusion == [[1, 1], [0, 1]]
    assert found.cross_entropy == pytest.approx(-(math.log(3 / 4) + math.log(1 / 4) + math.log(7 / 8)) / 3)


def test_nothing_evaluated_is_an_error():
    with pytest.raises(ValueError, match="no image of the classes a, b"):
        from_confusion([[0, 0], [0, 0]], 0.0, ("a", "b"))
