"""Traced functions without loops and calls: the same numbers, by plainer operations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpafer_jax.inference.export.flat import Known, flat

RNG = np.random.default_rng(0)


def operations(jaxpr):
    """The names of a jaxpr's primitives, in order, calls and loops looked into."""
    found = []
    for equation in jaxpr.eqns:
        found.append(equation.primitive.name)
        for value in equation.params.values():
            if hasattr(value, "jaxpr"):
                found += operations(value.jaxpr)
    return found


def check(function, *arguments, known=()):
    """Flattens; the numbers must be the same. Returns the operations that are left."""
    plain = flat(jax.make_jaxpr(function)(*arguments), known)
    expected = jax.tree.leaves(function(*arguments))
    found = plain(*map(jnp.asarray, arguments))
    traced = jax.jit(lambda *values: plain(*values))(*arguments)
    for one, other, third in zip(expected, found, traced, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(one, third, rtol=1e-5, atol=1e-5)
        assert one.shape == other.shape
    return jax.make_jaxpr(lambda *values: plain(*values))(*arguments).jaxpr


def test_a_scan_becomes_its_steps_with_weights_of_their_own():
    weights = RNG.normal(size=(3, 4, 4)).astype(np.float32)

    def layers(x):
        def layer(carry, weight):
            return jnp.tanh(carry @ weight), carry.sum()

        return jax.lax.scan(layer, x, weights)

    found = check(layers, RNG.normal(size=(2, 4)).astype(np.float32))
    assert operations(found).count("dot_general") == 3
    assert not {"scan", "slice", "dynamic_slice"} & set(operations(found))


def test_what_depends_on_no_argument_is_computed_and_what_nothing_needs_is_left_out():
    weights = RNG.normal(size=(4, 4)).astype(np.float32)

    def function(x):
        jnp.exp(x).sum()
        mask = jnp.concatenate([jnp.ones((4, 3), bool), jnp.zeros((4, 1), bool)], axis=1)
        return jnp.where(mask, x, 0) + jnp.tanh(weights @ weights), jnp.broadcast_to(weights, (100, 4, 4)) + x

    found = operations(check(function, np.ones((4, 4), np.float32)))
    assert not {"exp", "tanh", "dot_general", "concatenate"} & set(found)
    assert "broadcast_in_dim" in found  # computed it would be a constant a hundred times as large


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("bld,dn->bln", ((2, 3, 4), (4, 5))),
        ("bld,nd->bln", ((2, 3, 4), (5, 4))),
        ("bnd,cd->bcn", ((2, 3, 4), (5, 4))),
        ("cd,bnd->cbn", ((5, 4), (2, 3, 4))),
        ("bhqd,bhkd->bhqk", ((2, 3, 4, 5), (2, 3, 6, 5))),
        ("bhqk,bhkd->bhqd", ((2, 3, 4, 6), (2, 3, 6, 5))),
        ("abc,bcd->ad", ((2, 3, 4), (3, 4, 5))),  # over two axes: stays as it is
        ("ab,ab->a", ((2, 3), (2, 3))),  # no matrices
    ],
)
def test_products(equation, shapes):
    arrays = [RNG.normal(size=shape).astype(np.float32) for shape in shapes]
    found = check(lambda x, y: jnp.einsum(equation, x, y), *arrays)
    (product,) = [equation for equation in found.eqns if equation.primitive.name == "dot_general"]
    (contracting, batch) = product.params["dimension_numbers"]
    left, right = (variable.aval for variable in product.invars)
    if equation not in ("abc,bcd->ad", "ab,ab->a"):
        assert contracting == ((left.ndim - 1,), (right.ndim - 2,))
        assert batch[0] == batch[1] == tuple(range(right.ndim - 2))


@pytest.mark.parametrize(("stride", "left"), [((4, 4), 0), ((2, 2), 1)])
def test_a_convolution_of_windows_side_by_side_is_a_product(stride, left):
    images = RNG.normal(size=(2, 13, 12, 3)).astype(np.float32)  # a row is left over
    kernel = RNG.normal(size=(4, 4, 3, 5)).astype(np.float32)

    def function(images):
        return jax.lax.conv_general_dilated(images, kernel, stride, "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert operations(check(function, images)).count("conv_general_dilated") == left


def test_known_functions_are_called_in_place_of_their_operations():
    calls = []

    def instead(x):
        calls.append(x.shape)
        return jax.nn.softmax(x, axis=-1)

    known = Known(lambda x: jax.nn.softmax(x, axis=-1), lambda shape: (shape,), instead)
    constant = RNG.normal(size=(2, 3)).astype(np.float32)

    def function(x):
        return jax.nn.softmax(2 * x) + jax.nn.softmax(constant) + jax.nn.softmax(x, axis=0)

    check(function, np.ones((2, 3), np.float32), known=(known,))
    # Once each time that `check` traces it: with constants alone it is computed, and along axis 0 it is another.
    assert calls == [(2, 3)] * 2
