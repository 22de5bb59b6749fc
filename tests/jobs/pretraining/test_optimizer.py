"""The update rule: which parameters are Muon's, and how far each kind moves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mpafer_jax.backbones.clip.rules import flatten
from mpafer_jax.jobs.pretraining.initial import initial_params
from mpafer_jax.jobs.pretraining.optimizer import make_optimizer
from tests.tiny import CLIP

RATE = 0.01


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(jnp.asarray, {"clip": initial_params(CLIP, 0), "head": {"bias": jnp.ones(3)}})


def updates(params, *, weight_decay=0.0, clip_norm=0.0, factor=1.0):
    rng = np.random.default_rng(0)
    grads = jax.tree.map(lambda x: factor * jnp.asarray(rng.normal(size=x.shape), jnp.float32), params)
    tx = make_optimizer(optax.constant_schedule(RATE), weight_decay=weight_decay, clip_norm=clip_norm)
    made, _ = tx.update(grads, tx.init(params), params)
    return flatten(made["clip"])


def is_layers_matrix(path):
    return "/blocks/" in path and path.endswith("kernel")


def test_updates_of_the_layers_matrices_are_orthogonal_and_all_others_are_adams(params):
    found = 0
    for path, update in updates(params).items():
        if not is_layers_matrix(path):
            # Adam's first step is as long for all entries: with Nesterov's look ahead, 1 + b1 (1 - b1) / (1 - b1^2).
            np.testing.assert_allclose(np.abs(update), RATE * (1 + 0.09 / 0.19), rtol=1e-3, err_msg=path)
            continue
        found += 1
        for matrix in np.asarray(update):
            singular = np.linalg.svd(matrix, compute_uv=False)
            # Five Newton-Schulz rounds bring singular values to about 1, times the scale that gives an RMS of 0.2.
            scale = RATE * 0.2 * np.sqrt(max(matrix.shape))
            assert singular.min() / scale > 0.3, path
            assert singular.max() / scale < 1.4, path
    assert found == 12  # four of attention and two of the MLP, in either tower


def test_weight_decay_shrinks_the_layers_matrices_alone(params):
    with_decay, without = updates(params, weight_decay=0.5), updates(params)
    values = flatten(params["clip"])
    for path, update in without.items():
        expected = update - RATE * 0.5 * values[path] if is_layers_matrix(path) else update
        np.testing.assert_allclose(with_decay[path], expected, rtol=0, atol=1e-6, err_msg=path)


def test_a_longer_gradient_moves_nothing_further_behind_the_limit(params):
    one, hundred = updates(params, clip_norm=1.0), updates(params, clip_norm=1.0, factor=100.0)
    for path, update in one.items():
        np.testing.assert_allclose(hundred[path], update, rtol=0, atol=1e-5, err_msg=path)
