"""Products of bfloat16 arrays with float32 results: values, gradients, and what XLA makes of them in a tower."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpafer_jax.backbones.base import DeepPrompts
from mpafer_jax.backbones.clip.model import CLIP
from mpafer_jax.backbones.clip.random_clip import random_params
from mpafer_jax.backbones.products import DEFAULT, FLOAT32_RESULTS
from mpafer_jax.method import build
from mpafer_jax.runtime import devices
from tests import tiny
from tests.bench import hlo

pytestmark = pytest.mark.usefixtures("strict_promotion")

BFLOAT16 = jnp.dtype(jnp.bfloat16)
# Widths that are no number of images, tokens or layers, to tell arrays by their shapes.
CONFIG = dataclasses.replace(tiny.CLIP, vision=dataclasses.replace(tiny.CLIP.vision, hidden_size=40, num_heads=5))
IMAGES, PROMPTS = jax.random.normal(jax.random.key(0), (2, 32, 32, 3)), jax.random.normal(jax.random.key(1), (3, 2, 40))


def test_sums_are_float32_and_are_rounded_once():
    # bfloat16 has 8 bits: 256 + 1 is rounded to 256 again, and 256 + 3 to 260.
    x, y = jnp.array([[256.0, 1.0, 1.0, 1.0]], BFLOAT16), jnp.ones((4, 1), BFLOAT16)
    found = FLOAT32_RESULTS.einsum("ik,kj->ij", x, y)
    assert (found.dtype, float(found[0, 0])) == (BFLOAT16, 260.0)
    assert float(FLOAT32_RESULTS.dot_general(x, y, (((1,), (0,)), ((), ())), precision=None)[0, 0]) == 260.0


@pytest.mark.parametrize(
    ("subscripts", "left", "right"),
    [
        ("abw,wv->abv", (2, 3, 4), (4, 5)),
        ("bhqd,bhkd->bhqk", (2, 3, 4, 5), (2, 3, 6, 5)),
        ("bhqk,bhkd->bhqd", (2, 3, 4, 6), (2, 3, 6, 5)),
    ],
)
def test_whole_numbers_have_the_values_and_gradients_of_float32(subscripts, left, right):
    """Sums of few small whole numbers are exact in either type."""
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.integers(-3, 4, shape), jnp.float32) for shape in (left, right))

    def values_and_gradients(einsum, dtype):
        found, gradients = jax.vjp(lambda x, y: einsum(subscripts, x, y), x.astype(dtype), y.astype(dtype))
        cotangent = np.random.default_rng(1).integers(-3, 4, found.shape)
        return found, *gradients(jnp.asarray(cotangent, dtype))

    expected = values_and_gradients(jnp.einsum, jnp.float32)
    for found, exact in zip(values_and_gradients(FLOAT32_RESULTS.einsum, BFLOAT16), expected, strict=True):
        assert found.dtype == BFLOAT16
        np.testing.assert_array_equal(found.astype(jnp.float32), exact)


def tower(products=DEFAULT, dtype=BFLOAT16, remat="dots"):
    """Gradient of a loss of a tower's features with respect to its prompts, and its features; parameters."""
    model = CLIP(CONFIG, dtype, dtype, products, remat)
    params = random_params(CONFIG)
    params = {**params, "visual": jax.tree.map(lambda x: jnp.asarray(x, dtype), params["visual"])}

    def loss(prompts, params, images=IMAGES):
        features, out = model.apply({"params": params}, images, DeepPrompts(prompts), method="encode_image")
        return jnp.sum(jnp.sin(features)) + jnp.sum(jnp.cos(out["patch_features"])), features

    return jax.jit(jax.grad(loss, has_aux=True)), params


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_a_tower_computes_the_same_with_either_products(remat):
    (wanted_gradient, wanted), *others = (
        function(PROMPTS, params)
        for function, params in (
            tower(dtype=jnp.dtype(jnp.float32), remat=remat),
            tower(remat=remat),
            tower(FLOAT32_RESULTS, remat=remat),
        )
    )
    assert np.abs(wanted_gradient).max() > 0
    for gradient, features in others:
        for found, expected in ((features, wanted), (gradient, wanted_gradient)):
            assert found.dtype == jnp.float32
            np.testing.assert_allclose(found, expected, atol=0.03 * float(jnp.abs(expected).max()))


def test_all_products_of_a_compiled_tower_multiply_bfloat16_numbers():
    """Forward and backward, but for the patches, which are a convolution."""
    function, params = tower(FLOAT32_RESULTS)
    program = function.lower(PROMPTS, params).compile().as_text()
    assert set(hlo.products(program)) == {("bf16", "bf16", "f32")}
    # Of the MLP: a layer's weights are not converted to float32, and neither are those of all layers before the loop.
    assert "[40,64]" in program
    assert not re.search(r"f32\[(1,|3,)?(40,64|64,40|40,40)\]", program)


def test_the_backward_pass_keeps_the_same_arrays_with_either_products():
    def kept(products):
        function, params = tower(products)
        forward, _ = scans(jax.make_jaxpr(function)(PROMPTS, params).jaxpr)
        return sorted((value.aval.shape, value.aval.dtype.name) for value in forward.outvars)

    found = kept(FLOAT32_RESULTS)
    assert found == kept(DEFAULT)
    assert ((3, 2, 17, 64), "bfloat16") in found  # of the MLP
    assert {dtype for _, dtype in found} == {"bfloat16"}


@pytest.mark.devices
def test_one_device_and_all_devices_have_the_same_gradient():
    function, params = tower(FLOAT32_RESULTS)
    images = jax.random.normal(jax.random.key(2), (8, 32, 32, 3))

    def step(prompts, params, images):
        return devices.sum_over_devices(function(prompts, params, images)[0])

    one, every = (
        devices.data_parallel(step, on=jax.devices()[:count])(PROMPTS, params, images)
        for count in (1, jax.device_count())
    )
    np.testing.assert_allclose(one, every, atol=0.01 * float(jnp.abs(one).max()))


def test_attention_maps_are_those_of_the_other_products():
    maps = []
    for products in (DEFAULT, FLOAT32_RESULTS):
        _, params = tower()
        model = CLIP(CONFIG, BFLOAT16, BFLOAT16, products)
        arguments = ({"params": params}, IMAGES, DeepPrompts(PROMPTS))
        _, state = model.apply(*arguments, method="encode_image", mutable=["intermediates"])
        maps.append(model.attention(state["intermediates"]))
    assert maps[0].shape == (3, 2, 17, 19)
    np.testing.assert_allclose(maps[1], maps[0], atol=0.01)


def scans(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation
        elif equation.primitive.name == "jit":
            yield from scans(equation.params["jaxpr"].jaxpr)


@pytest.mark.parametrize(
    ("unit", "dtype", "products"),
    [("amx_bf16", BFLOAT16, FLOAT32_RESULTS), ("amx_bf16", jnp.float32, DEFAULT), ("", BFLOAT16, DEFAULT)],
)
def test_a_bfloat16_tower_uses_the_unit_of_a_cpu_that_has_one(monkeypatch, unit, dtype, products):
    monkeypatch.setattr(devices, "bfloat16_unit", lambda: unit)
    assert build.for_this_device(tiny.model(dtype=dtype)).backbone.products == products
