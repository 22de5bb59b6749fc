"""The image tower on some of an image's patches, and unrolled."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpafer_jax.backbones.base import DeepPrompts
from mpafer_jax.backbones.clip.model import CLIP
from mpafer_jax.runtime import devices
from tests import tiny

pytestmark = pytest.mark.usefixtures("strict_promotion")

SIDE, NUMBER, EXACT = 4, 16, {"rtol": 1e-4, "atol": 1e-5}


def encode(images, kept=None, config=tiny.CLIP, params=None, prompts=None):
    variables = {"params": params or tiny.clip_params()}
    return CLIP(config).apply(variables, images, prompts, kept=kept, method="encode_image")


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(0), (2, 32, 32, 3))


def test_all_patches_in_any_order_give_what_the_whole_image_gives(images):
    features, out = encode(images)
    order = np.stack([np.arange(NUMBER), np.random.default_rng(0).permutation(NUMBER)])
    same, permuted = encode(images, jnp.asarray(order))
    np.testing.assert_allclose(same, features, **EXACT)
    assert permuted.keys() == out.keys()
    for name in ("patch_features", "tokens"):
        rows = order if name == "patch_features" else np.concatenate([np.zeros((2, 1), int), 1 + order], axis=1)
        np.testing.assert_allclose(permuted[name], np.take_along_axis(out[name], rows[:, :, None], 1), **EXACT)


def test_a_block_of_patches_is_a_smaller_image_at_its_positions(images):
    """A tower for that size, with the positions of the block, is the same network."""
    small = dataclasses.replace(tiny.CLIP, vision=dataclasses.replace(tiny.CLIP.vision, image_size=16))
    corners = ((1, 2), (0, 1))  # row and column of the block of 2 x 2 patches, another of each image
    blocks = [[SIDE * row + column for row in (top, top + 1) for column in (left, left + 1)] for top, left in corners]
    features, out = encode(images, jnp.asarray(blocks))
    params = tiny.clip_params()
    for i, (top, left) in enumerate(corners):
        positions = params["visual"]["position_embedding"][np.array([0, *(1 + block for block in blocks[i])])]
        moved = {**params, "visual": {**params["visual"], "position_embedding": positions}}
        part = images[i : i + 1, 8 * top : 8 * top + 16, 8 * left : 8 * left + 16]
        expected, of_part = encode(part, config=small, params=moved)
        np.testing.assert_allclose(features[i], expected[0], **EXACT)
        for name in ("patch_features", "tokens"):
            np.testing.assert_allclose(out[name][i], of_part[name][0], **EXACT)


@pytest.mark.parametrize("kind", ["none", "keys", "keys of some layers", "in sequence"])
def test_the_unrolled_tower_is_the_same_and_reads_the_same_memory(images, kind):
    layers, width = tiny.CLIP.vision.num_layers, tiny.CLIP.vision.hidden_size
    tokens = jax.random.normal(jax.random.key(1), (layers, 3, width))
    enabled = None if kind == "keys" else jnp.arange(layers) != 1
    prompts = None if kind == "none" else DeepPrompts(tokens, enabled, in_sequence=kind == "in sequence")
    params = jax.tree.map(jnp.asarray, tiny.clip_params())
    expected, _ = encode(images, params=params, prompts=prompts)
    clip, unrolled = CLIP(tiny.CLIP).unroll(params)
    found, _ = clip.apply({"params": unrolled}, images, prompts, method="encode_image")
    np.testing.assert_allclose(found, expected, **EXACT)
    stack = np.asarray(params["visual"]["blocks"]["mlp"]["fc1"]["kernel"])
    put = devices.replicate(unrolled)["visual"]["blocks"]["1"]["mlp"]["fc1"]["kernel"]
    assert np.shares_memory(np.asarray(put.addressable_data(0)), stack[1])
