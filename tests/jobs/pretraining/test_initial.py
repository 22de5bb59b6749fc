"""First weights: OpenAI's standard deviations, attention as if trained, and a whitened patch embedding."""

import dataclasses

import jax
import numpy as np
import pytest

from mpafer_jax.backbones.clip.model import ClipConfig, TextConfig, VisionConfig
from mpafer_jax.backbones.clip.rules import flatten, param_shapes
from mpafer_jax.jobs.pretraining.initial import initial_params, mimetic, whiten_patches

CONFIG = ClipConfig(
    vision=VisionConfig(96, 384, 3, 4, 48, 8, "quick_gelu", 1e-5),
    text=TextConfig(700, 64, 256, 2, 4, 32, 699, "quick_gelu", 1e-5),
    projection_dim=40,
)


def test_standard_deviations_are_openais():
    flat = flatten(initial_params(CONFIG, seed=0))
    assert {path: np.shape(value) for path, value in flat.items()} == param_shapes(CONFIG)
    assert float(np.exp(flat["logit_scale"])) == pytest.approx(1 / 0.07)
    checked = set()
    for path, value in flat.items():
        tower = CONFIG.vision if path.startswith("visual/") else CONFIG.text
        width, depth = tower.hidden_size**-0.5, (2 * tower.num_layers) ** -0.5
        *_, module, leaf = path.split("/") if "/" in path else ("", path)
        assert value.dtype == np.float32
        if leaf in ("scale", "bias"):
            np.testing.assert_array_equal(value, float(leaf == "scale"), err_msg=path)
        elif module in ("q_proj", "k_proj", "v_proj", "projection") and leaf == "kernel":
            assert value.std() == pytest.approx(width, rel=0.05), path
            checked.add(module)
        elif module in ("out_proj", "fc2"):  # these add to the residual stream
            assert value.std() == pytest.approx(width * depth, rel=0.05), path
            checked.add(module)
        elif module == "fc1":
            assert value.std() == pytest.approx((2 * tower.hidden_size) ** -0.5, rel=0.05), path
            checked.add(module)
        elif module == "patch_embedding":
            assert value.std() == pytest.approx((8 * 8 * 3) ** -0.5, rel=0.05), path
            checked.add(module)
    assert checked >= {"q_proj", "k_proj", "v_proj", "projection", "out_proj", "fc2", "fc1", "patch_embedding"}


def correlation(a, b):
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


def test_mimetic_attention_looks_for_the_like():
    """Of four heads W_q W_k^T has a quarter of the rank; of a single one it is 0.7 Z + 0.7 I itself."""
    before, identity = initial_params(CONFIG, seed=0)["visual"], np.eye(96)
    tower = mimetic(before, CONFIG.vision, seed=1)
    whole = mimetic(before, dataclasses.replace(CONFIG.vision, num_heads=1), seed=1)["blocks"]["attn"]
    attention = tower["blocks"]["attn"]
    for layer in range(3):
        for head in np.split(np.arange(96), 4):
            products = [
                tree["q_proj"]["kernel"][layer][:, head] @ tree["k_proj"]["kernel"][layer][:, head].T
                for tree in (attention, before["blocks"]["attn"])
            ]
            assert np.linalg.matrix_rank(products[0], tol=1e-3) == 24
            assert correlation(products[0], identity) > 0.35
            assert abs(correlation(products[1], identity)) < 0.1
        for product, noise, diagonal in (
            (whole["q_proj"]["kernel"][layer] @ whole["k_proj"]["kernel"][layer].T, 0.7, 0.7),
            (attention["v_proj"]["kernel"][layer] @ attention["out_proj"]["kernel"][layer], 0.4, -0.4),
        ):
            random = (product - diagonal * identity) / noise * np.sqrt(96)
            assert random.mean() == pytest.approx(0, abs=0.03)
            assert random.std() == pytest.approx(1, rel=0.03)
            assert np.diag(random).mean() == pytest.approx(0, abs=0.35)  # 3.4 standard deviations


def test_mimetic_positions_are_like_those_of_neighbours_and_all_else_stays():
    before = initial_params(CONFIG, seed=0)["visual"]
    copy = jax.tree.map(np.copy, before)
    after = mimetic(before, CONFIG.vision, seed=1)
    positions = after["position_embedding"]
    assert (positions.shape, positions.dtype) == ((37, 96), np.float32)
    np.testing.assert_array_equal(positions[0], before["position_embedding"][0])  # CLS
    places = np.stack(np.divmod(np.arange(36), 6), axis=1)
    steps = np.abs(places[:, None] - places).sum(axis=-1)
    distances = np.linalg.norm(positions[1:, None] - positions[1:], axis=-1)
    assert distances[steps == 1].max() < distances[steps > 1].min()
    changed = {
        "position_embedding",
        *(f"blocks/attn/{name}/kernel" for name in ("q_proj", "k_proj", "v_proj", "out_proj")),
    }
    one, other = flatten(before), flatten(after)
    assert {path: np.shape(value) for path, value in one.items()} == {path: np.shape(other[path]) for path in other}
    assert {path for path in one if not np.array_equal(one[path], other[path])} == changed
    assert {np.asarray(other[path]).dtype for path in changed} == {np.dtype(np.float32)}
    for path, value in flatten(copy).items():
        np.testing.assert_array_equal(value, one[path], err_msg=path)  # the argument is not changed


@pytest.fixture(scope="module")
def images():
    """Smooth ones, whose neighbouring pixels are nearly equal, with some noise."""
    rng = np.random.default_rng(0)
    coarse = rng.standard_normal((200, 6, 6, 3))
    return np.kron(coarse, np.ones((1, 4, 4, 1))) + 0.3 * rng.standard_normal((200, 24, 24, 3))


def embedded(images, kernel):
    """[patches, W]: each patch, row by row, through the kernel."""
    size = kernel.shape[0]
    patches = [
        image[top : top + size, left : left + size].reshape(-1)
        for image in images
        for top in range(0, 24, size)
        for left in range(0, 24, size)
    ]
    return np.array(patches) @ kernel.reshape(-1, kernel.shape[-1])


def test_a_whitened_embedding_has_the_identity_as_covariance(images):
    kernel = whiten_patches(images, patch_size=4, width=48, seed=0)  # as wide as a patch has numbers
    assert (kernel.shape, kernel.dtype) == ((4, 4, 3, 48), np.float32)
    np.testing.assert_allclose(np.cov(embedded(images, kernel), rowvar=False), np.eye(48), atol=1e-3)


def test_a_narrow_embedding_keeps_the_largest_components_and_a_wide_one_all(images):
    narrow = np.cov(embedded(images, whiten_patches(images, 4, 20, seed=0)), rowvar=False)
    np.testing.assert_allclose(narrow, np.eye(20), atol=1e-3)
    wide = np.cov(embedded(images, whiten_patches(images, 4, 64, seed=0)), rowvar=False)
    values = np.linalg.eigvalsh(wide)
    np.testing.assert_allclose(values, [0.0] * 16 + [1.0] * 48, atol=1e-3)
    # Of all embeddings of this width, that of the largest components loses least of the images.
    patches = embedded(images, np.eye(48).reshape(4, 4, 3, 48))
    centred = patches - patches.mean(axis=0)
    kernel = whiten_patches(images, 4, 20, seed=0).reshape(48, 20)
    left = centred - centred @ kernel @ np.linalg.lstsq(centred @ kernel, centred, rcond=None)[0]
    smallest = np.linalg.eigvalsh(np.cov(patches, rowvar=False))[:28].sum()
    assert left.var(axis=0, ddof=1).sum() == pytest.approx(smallest, rel=1e-3)


def test_equal_seeds_alone_give_equal_numbers(images):
    def tower(seed):
        return mimetic(initial_params(CONFIG, 0)["visual"], CONFIG.vision, seed)

    for make in (lambda seed: whiten_patches(images, 4, 48, seed), lambda seed: initial_params(CONFIG, seed), tower):
        one, same, other = (jax.tree.leaves(make(seed)) for seed in (3, 3, 4))
        for a, b in zip(one, same, strict=True):
            np.testing.assert_array_equal(a, b)
        assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_noise_is_not_blown_up():
    rng = np.random.default_rng(1)
    flat = np.repeat(rng.standard_normal((50, 1, 1, 3)), 8, axis=1).repeat(8, axis=2)  # a patch has one colour
    flat += 1e-6 * rng.standard_normal(flat.shape)
    kernel = whiten_patches(flat, patch_size=4, width=48, seed=0)
    covariance = np.linalg.eigvalsh(
        np.cov(
            rng.permutation(flat.reshape(-1, 2, 4, 2, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 48))
            @ kernel.reshape(48, 48),
            rowvar=False,
        )
    )
    np.testing.assert_allclose(covariance[-3:], 1, atol=1e-3)
    assert covariance[:-3].max() < 1e-6
