"""Flattens a traced function for converters to other formats: no loops or calls, products as matmul.

A converter would turn our scan over stacked layers into a loop over slices of weights, JAX's contractions into Einsum,
and layer normalisation and softmax into a dozen operations. Quantizers and kernels of runtimes recognise none of these.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.core
import jax.extend
import jax.numpy as jnp
import numpy as np

_BODIES = {"jit": "jaxpr", "custom_jvp_call": "call_jaxpr"}  # primitive of a call -> parameter with its body


@dataclasses.dataclass(frozen=True)
class Known:
    """A function to recognise among the operations, and its replacement.

    Attributes:
      function: as the model computes it, of arrays only.
      shapes: from the shape of the first argument to those of all arguments.
      instead: the replacement, with the same arguments.
    """

    function: Callable[..., Any]
    shapes: Callable[[tuple[Any, ...]], Sequence[tuple[Any, ...]]]
    instead: Callable[..., Any]


def flat(closed: Any, known: Sequence[Known] = ()) -> Callable[..., list[Any]]:
    """The same function flattened, with constants folded; returns its outputs in a list and can be traced.

    Args:
      closed: from `jax.make_jaxpr`.
      known: functions whose operations are replaced.
    """
    steps: list[tuple[Sequence[Any], Sequence[Any], Callable[..., Sequence[Any]]]] = []  # inputs, outputs, call
    rest = _needed(closed.jaxpr)
    while rest:
        matched = next((match for function in known if (match := _match(function, rest))), None)
        if matched is None:
            steps.append((rest[0].invars, rest[0].outvars, _call(rest[0], known)))
            rest = rest[1:]
        else:
            steps.append(matched[:3])
            rest = rest[matched[3] :]

    def run(*arguments: Any) -> list[Any]:
        values: dict[Any, Any] = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
        values |= dict(zip(closed.jaxpr.invars, arguments, strict=True))

        def read(variable: Any) -> Any:
            return variable.val if isinstance(variable, jax.extend.core.Literal) else values[variable]

        for inputs, outputs, call in steps:
            values |= dict(zip(outputs, call(*map(read, inputs)), strict=True))
        return [read(variable) for variable in closed.jaxpr.outvars]

    return run


def _needed(jaxpr: Any) -> list[Any]:
    """The equations on which an output depends."""
    needed, equations = set(map(id, jaxpr.outvars)), list[Any]()
    for equation in reversed(jaxpr.eqns):
        if any(id(variable) in needed for variable in equation.outvars):
            needed |= set(map(id, equation.invars))
            equations.append(equation)
    return equations[::-1]


def _match(
    known: Known, equations: Sequence[Any]
) -> tuple[list[Any], list[Any], Callable[..., Sequence[Any]], int] | None:
    """If equations begin with a known function: its inputs, output, replacement, and number of equations; else None."""
    first = equations[0].invars[:1]
    if not first or isinstance(first[0], jax.extend.core.Literal):
        return None
    start = first[0].aval
    if not start.shape or start.dtype != np.float32:
        return None
    shapes = [jax.ShapeDtypeStruct(shape, np.float32) for shape in known.shapes(start.shape)]
    traced = jax.make_jaxpr(known.function)(*shapes)
    wanted = traced.jaxpr
    same: dict[Any, Any] = {}  # variable of the known function -> of the equations
    for theirs, ours in itertools.zip_longest(wanted.eqns, equations[: len(wanted.eqns)]):
        if ours is None or theirs.primitive is not ours.primitive or theirs.params != ours.params:
            return None
        for want, have in zip(theirs.invars, ours.invars, strict=True):
            if isinstance(want, jax.extend.core.Literal) or isinstance(have, jax.extend.core.Literal):
                if getattr(want, "val", None) != getattr(have, "val", None):
                    return None
            elif same.setdefault(want, have) is not have or want.aval.shape != have.aval.shape:
                return None
        same |= dict(zip(theirs.outvars, ours.outvars, strict=True))
    inputs, (output,) = [same[variable] for variable in wanted.invars], wanted.outvars
    inner = {id(variable) for equation in equations[: len(wanted.eqns)] for variable in equation.outvars}
    inner.remove(id(same[output]))
    if any(id(variable) in inner for equation in equations[len(wanted.eqns) :] for variable in equation.invars):
        return None

    def call(*values: Any) -> list[Any]:
        return [known.instead(*values)] if _any_traced(values) else flat(traced)(*values)

    return inputs, [same[output]], call, len(wanted.eqns)


def _call(equation: Any, known: Sequence[Known]) -> Callable[..., Sequence[Any]]:
    name, params = equation.primitive.name, equation.params
    if name in _BODIES:
        return flat(params[_BODIES[name]], known)
    if name == "scan":
        return functools.partial(_unrolled, params, flat(params["jaxpr"], known))
    return functools.partial(_computed, equation)


def _computed(equation: Any, *inputs: Any) -> Sequence[Any]:
    def bound() -> Sequence[Any]:
        outputs = equation.primitive.bind(*inputs, **equation.params)
        return outputs if equation.primitive.multiple_results else [outputs]

    if _is_constant(equation, inputs):
        with jax.ensure_compile_time_eval():
            return [np.asarray(value) for value in bound()]
    product: Any = None
    if equation.primitive is jax.lax.dot_general_p:
        product = _matmul(inputs[0], inputs[1], equation.params["dimension_numbers"])
    elif equation.primitive is jax.lax.conv_general_dilated_p:
        product = _patches_matmul(inputs[0], inputs[1], equation.params)
    return bound() if product is None else [product]


def _any_traced(values: Sequence[Any]) -> bool:
    return any(isinstance(value, jax.core.Tracer) for value in values)


def _is_constant(equation: Any, inputs: Sequence[Any]) -> bool:
    if _any_traced(inputs):
        return False
    shapes: list[tuple[Any, ...]] = [variable.aval.shape for variable in equation.outvars]
    sizes: list[Any] = [math.prod(shape) for shape in shapes]
    if not all(isinstance(size, int) for size in sizes):  # a symbolic batch dimension
        return False
    # Folding a broadcast over the batch would make the file larger.
    return max(map(len, shapes)) <= 2 or sum(sizes) <= sum(np.size(value) for value in inputs)


def _unrolled(params: Any, body: Callable[..., list[Any]], *inputs: Any) -> list[Any]:
    """Unrolls a scan."""
    if params["reverse"]:
        raise NotImplementedError("a scan from the end")
    consts, carried = params["num_consts"], params["num_consts"] + params["num_carry"]
    carry, steps = list(inputs[consts:carried]), list[list[Any]]()
    for step in range(params["length"]):
        outputs = body(*inputs[:consts], *carry, *(value[step] for value in inputs[carried:]))
        carry = outputs[: params["num_carry"]]
        steps.append(outputs[params["num_carry"] :])
    return [*carry, *(jnp.stack(values) for values in zip(*steps, strict=True))]


def _matmul(left: Any, right: Any, dimension_numbers: Any) -> Any:
    """A `dot_general` over one axis as a matmul, one operand with any number of free axes; None for other forms."""
    ((left_shared, right_shared), (left_batch, right_batch)) = dimension_numbers
    left_free = [axis for axis in range(left.ndim) if axis not in (*left_shared, *left_batch)]
    right_free = [axis for axis in range(right.ndim) if axis not in (*right_shared, *right_batch)]
    if len(left_shared) != 1 or not left_free or not right_free:
        return None
    if len(left_free) == 1 and len(right_free) > 1:
        product = _matmul(right, left, ((right_shared, left_shared), (right_batch, left_batch)))
        return None if product is None else jnp.moveaxis(product, -1, len(left_batch))
    if len(right_free) > 1 or (left_batch and len(left_free) > 1):
        return None
    rows = _transposed(left, (*left_batch, *left_free, *left_shared))
    columns = _transposed(right, (*right_batch, *right_shared, *right_free))
    return jnp.matmul(rows, columns)


def _transposed(value: Any, order: Sequence[int]) -> Any:
    if list(order) == list(range(value.ndim)):
        return value
    library: Any = jnp if _any_traced([value]) else np
    return library.transpose(value, order)


def _patches_matmul(images: Any, kernel: Any, params: Any) -> Any:
    """A convolution with stride equal to kernel size, [B, S, S, 3] -> [B, rows, columns, W], as a matmul; else None."""
    height, width = kernel.shape[:2]
    plain = jax.lax.conv_dimension_numbers(images.shape, kernel.shape, ("NHWC", "HWIO", "NHWC"))
    touching = params["window_strides"] == (height, width) and all(pad == (0, 0) for pad in params["padding"])
    undilated = params["lhs_dilation"] == params["rhs_dilation"] == (1, 1)
    grouped = params["feature_group_count"] != 1 or params["batch_group_count"] != 1
    if params["dimension_numbers"] != plain or not touching or not undilated or grouped:
        return None
    rows, columns = images.shape[1] // height, images.shape[2] // width
    cut = images[:, : rows * height, : columns * width]
    cut = cut.reshape(images.shape[0], rows, height, columns, width, -1)
    patches = jnp.transpose(cut, (0, 1, 3, 2, 4, 5)).reshape(images.shape[0], rows, columns, -1)
    return jnp.matmul(patches, np.reshape(kernel, (-1, kernel.shape[-1])))
