"""How a tower multiplies matrices.

Some CPUs have units that multiply bfloat16 numbers and sum in float32 (AMX, AVX512-BF16), faster than float32 numbers
are multiplied. XLA uses them for products whose result is float32. For a bfloat16 result, which is JAX's default, it
converts both operands to float32 and multiplies those. Either way the result is a float32 sum of exact products that is
rounded to bfloat16 once.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import ad_checkpoint

SAVED = "product"  # name of the products of `nn.Dense` that a backward pass may keep


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _einsum(subscripts: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """`jnp.einsum` of two bfloat16 arrays with a float32 result, which is then rounded to bfloat16.

    Each index is in two of x, y and the result, so that gradients are products of the same kind. JAX's own would
    multiply float32 cotangents.
    """
    of_x, of_y, result = _indices(subscripts)
    if next(index for index in result if (index in of_x) != (index in of_y)) in of_y:
        x, y, of_x, of_y = y, x, of_y, of_x  # rows before columns, so that JAX does not swap them
    rows = [index for index in result if index in of_x] + [index for index in of_x if index not in result]
    x, y = _in_memory(jnp.transpose(x, [of_x.index(index) for index in rows])), _in_memory(y)
    product = jnp.einsum(f"{''.join(rows)},{of_y}->{result}", x, y, preferred_element_type=jnp.float32)
    return product.astype(x.dtype)


def _indices(subscripts: str) -> tuple[str, str, str]:
    inputs, result = subscripts.split("->")
    of_x, of_y = inputs.split(",")
    return of_x, of_y, result


def _in_memory(x: jax.Array) -> jax.Array:
    """x with its last axis last in memory, as XLA's kernels need it, and does not know of a transposed array."""
    return jax.lax.optimization_barrier(x.ravel()).reshape(x.shape)


def _forward(subscripts: str, x: jax.Array, y: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _einsum(subscripts, x, y), (x, y)


def _backward(
    subscripts: str, operands: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    (x, y), (of_x, of_y, result) = operands, _indices(subscripts)
    return _einsum(f"{result},{of_y}->{of_x}", cotangent, y), _einsum(f"{of_x},{result}->{of_y}", x, cotangent)


_einsum.defvjp(_forward, _backward)


def _dense(x: jax.Array, kernel: jax.Array, dimension_numbers: object, **options: object) -> jax.Array:
    """Rows x [..., W] times kernel [W, V], called as `lax.dot_general` by `nn.Dense`."""
    rows = "abc"[: x.ndim - 1]
    return cast(Any, ad_checkpoint).checkpoint_name(_einsum(f"{rows}w,wv->{rows}v", x, kernel), SAVED)


@dataclasses.dataclass(frozen=True)
class Products:
    """Functions that multiply.

    Attributes:
      einsum: as `jnp.einsum` of two arrays.
      dot_general: of `nn.Dense`.
      stacks_as_bits: whether a scan over layers reads their weights, stored in bfloat16, as uint16. On a CPU XLA would
        convert the weights of all layers to float32 before the loop, in every step.
    """

    einsum: Callable[[str, jax.Array, jax.Array], jax.Array]
    dot_general: Callable[..., Any]
    stacks_as_bits: bool


DEFAULT = Products(cast(Any, jnp.einsum), cast(Any, jax.lax.dot_general), False)
FLOAT32_RESULTS = Products(cast(Any, _einsum), _dense, True)  # of bfloat16 arrays
