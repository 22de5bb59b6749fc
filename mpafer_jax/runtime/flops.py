"""Counts the floating-point operations of a traced function.

XLA's analysis counts a loop's body once, and the towers' layers are scanned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import jax


def count_flops(function: Any, *arguments: Any) -> float:
    """Floating-point operations of all matrix products and convolutions, 2 per multiply-add.

    With `shard_map`, of one device. Other operations (softmax, norms, activations, update) are left out, 1 to 2 % of a
    ViT; dead code is counted.

    Args:
      function: jitted or not.
      arguments: arrays or `jax.ShapeDtypeStruct`s.
    """
    return _of_jaxpr(cast(Any, jax.make_jaxpr(function)(*arguments)).jaxpr)


def _of_jaxpr(jaxpr: Any) -> float:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> float:
    name: str = equation.primitive.name
    if name == "dot_general":
        (contracting, _), _ = equation.params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracting)
    if name == "conv_general_dilated":
        kernel, spec = equation.invars[1].aval.shape, equation.params["dimension_numbers"].rhs_spec
        # Each output value needs the kernel's whole window of one output feature.
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) / kernel[spec[0]]
    inner = [_of_jaxpr(jaxpr) for jaxpr in _inner(equation)]
    if name == "cond":
        return max(inner)
    return sum(inner) * (equation.params["length"] if name == "scan" else 1)


def _inner(equation: Any) -> list[Any]:
    """Functions that an equation calls; a `while` counts its body once, as its trip count is unknown."""
    found: list[Any] = []
    for value in equation.params.values():
        items = cast(Sequence[Any], value if isinstance(value, list | tuple) else (value,))
        for item in items:
            jaxpr: Any = getattr(item, "jaxpr", item)
            if hasattr(jaxpr, "eqns"):
                found.append(jaxpr)
    return found
