"""Counted floating-point operations, by hand."""

import jax
import jax.numpy as jnp

from mpafer_jax.runtime import devices
from mpafer_jax.runtime.flops import count_flops

LAYERS, ROWS, WIDTH = 5, 64, 16


def gradients(weights, rows):
    """Of a loss behind a scan over layers, summed over devices."""

    def layer(h, w):
        return jnp.tanh(h @ w), None

    def loss(weights):
        return jnp.sum(jax.lax.scan(layer, rows, weights)[0])

    return devices.sum_over_devices(jax.grad(loss)(weights))


def test_loops_count_as_often_as_they_run_on_one_device():
    # Forwards one product a layer, backwards two; the first layer's input needs no gradient, but is in the scan.
    expected = LAYERS * 3 * 2 * ROWS * WIDTH * WIDTH
    weights, number = jnp.zeros((LAYERS, WIDTH, WIDTH)), jax.local_device_count()
    assert count_flops(devices.data_parallel(gradients), weights, jnp.zeros((number, ROWS, WIDTH))) == expected
    rows = jax.ShapeDtypeStruct((jax.device_count() * ROWS, WIDTH), jnp.float32)
    assert count_flops(devices.data_parallel(gradients, on=jax.devices()), weights, rows) == expected


def test_flops_of_convolutions_and_branches():
    def patches(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    x, kernel = jnp.zeros((2, 8, 8, 3)), jnp.zeros((4, 4, 3, 6))
    one = 2 * (2 * 2 * 2 * 6) * (4 * 4 * 3)
    assert count_flops(patches, x, kernel) == one

    def either(x, kernel):
        return jax.lax.cond(x[0, 0, 0, 0] > 0, lambda: patches(x, kernel), lambda: jnp.zeros((2, 2, 2, 6)))

    assert count_flops(jax.jit(either), x, kernel) == one
