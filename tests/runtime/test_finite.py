"""Numbers that are not finite are found and named."""

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from mpafer_jax.artifacts.description import Description
from mpafer_jax.runtime import finite
from mpafer_jax.runtime.errors import NonFiniteError

NAN, INF = np.float32("nan"), np.float32("inf")


def test_arrays_are_named_by_their_paths_and_counted():
    tree = {
        "ctx": np.array([1, NAN, -INF, 2]),
        "state": ({"count": jnp.asarray(3, jnp.int32)}, [jnp.asarray([0.5, jnp.inf], jnp.bfloat16)]),
        "fine": np.zeros((2, 2), ml_dtypes.bfloat16),
    }
    assert finite.not_finite(tree) == ["ctx (2 of 4)", "state/1/0 (1 of 2)"]
    assert finite.not_finite(np.array(NAN)) == ["(1 of 1)"]
    assert finite.not_finite({"x": np.zeros((0, 3))}) == []


def test_a_description_holds_no_weights_that_are_not_finite():
    fields = {"config": {}, "class_names": ("a",), "clip_name": "c", "clip_hash": "h"}
    fields["hard_prompts"] = {"groups": [{"name": "t", "texts": [["t"]]}]}
    fields |= {"data": {}, "versions": {}}
    Description.model_validate({**fields, "patch_weights": ((0.5, 1.5),)})
    with pytest.raises(ValueError, match=r"patch_weights\.0\.1\n +Input should be a finite number"):
        Description.model_validate({**fields, "patch_weights": ((0.5, np.nan),)})


def test_rows_are_named_by_their_images():
    values = np.zeros((3, 2, 2), np.float32)
    finite.check_rows("logits", values, ["a", "b", "c"])
    values[1, 0, 1] = INF
    values[2] = NAN
    assert finite.finite_rows(values).tolist() == [True, False, False]
    with pytest.raises(NonFiniteError, match="logits of 2 of 3 images are NaN or infinite, first those of b"):
        finite.check_rows("logits", values, np.array(["a", "b", "c"]))
