"""Losses: values by hand, finite differences, and truth that is not known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from mpafer_jax.jobs.pretraining import losses

pytestmark = pytest.mark.usefixtures("strict_promotion")


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_contrastive_by_hand():
    features = jnp.asarray([[2.0, 0.0], [0.0, 3.0]])  # lengths do not count
    candidates = jnp.asarray([[1.0, 0.0], [0.0, 1.0], [3.0, 4.0]])
    none = jnp.zeros((2, 3), bool)
    found = losses.contrastive(features, candidates, jnp.asarray([0, 2]), jnp.float32(2.0), none)
    first = np.log(np.exp([2.0, 0.0, 1.2]).sum()) - 2.0
    second = np.log(np.exp([0.0, 2.0, 1.6]).sum()) - 1.6
    np.testing.assert_allclose(found, [first, second], rtol=1e-6)


def test_the_same_caption_is_no_negative_and_the_own_one_stays():
    features, candidates = random(3, 4), random(5, 4, seed=1)
    own, scale = jnp.asarray([0, 1, 2]), jnp.float32(5.0)
    same = jnp.zeros((3, 5), bool).at[0, [0, 3, 4]].set(True).at[1, 1].set(True)
    found = losses.contrastive(features, candidates, own, scale, same)
    without = losses.contrastive(features[:1], candidates[:3], own[:1], scale, jnp.zeros((1, 3), bool))
    plain = losses.contrastive(features, candidates, own, scale, jnp.zeros((3, 5), bool))
    np.testing.assert_allclose(found, [without[0], plain[1], plain[2]], rtol=1e-6)

    alone = losses.contrastive(features, candidates, own, scale, jnp.ones((3, 5), bool))
    np.testing.assert_array_equal(alone, 0)
    gradient = jax.grad(lambda f: losses.contrastive(f, candidates, own, scale, same).sum())(features)
    assert np.isfinite(gradient).all()


def test_statements_by_hand():
    logits, truth = np.array([0.5, -1.6], np.float32), jnp.asarray([[1.0, 0.25]])
    chance = 1 / (1 + np.exp(-logits))
    expected = -np.mean([np.log(chance[0]), 0.25 * np.log(chance[1]) + 0.75 * np.log(1 - chance[1])])
    np.testing.assert_allclose(losses.statements(logits[None], truth), [expected], rtol=1e-6)
    np.testing.assert_allclose(losses.probabilities(logits[None], ()), chance[None], rtol=1e-6)


def test_of_a_group_one_statement_is_true():
    """Statements 0 and 2 are a group; 1 stands alone; what a row does not know of a group does not count."""
    logits = np.array([[1.0, 0.5, -1.0], [1.0, 0.5, -1.0]], np.float32)
    truth = jnp.asarray([[0.75, 1.0, 0.25], [jnp.nan, 1.0, jnp.nan]])
    chance = np.exp([1.0, -1.0]) / np.exp([1.0, -1.0]).sum()
    group, alone = -(0.75 * np.log(chance[0]) + 0.25 * np.log(chance[1])), np.log1p(np.exp(-0.5))
    expected = [(group + alone) / 2, alone]
    np.testing.assert_allclose(losses.statements(logits, truth, [[0, 2]]), expected, rtol=1e-6)
    chances = [chance[0], 1 / (1 + np.exp(-0.5)), chance[1]]
    np.testing.assert_allclose(losses.probabilities(logits, [[0, 2]])[0], chances, rtol=1e-6)


def test_guidance_compares_the_patches_that_are_left():
    patches, maps = random(2, 2, 3), random(2, 4, 3, seed=1)
    kept = np.array([[1, 3], [0, 2]])
    expected = [np.mean((patches[i] - maps[i][kept[i]]) ** 2) for i in range(2)]
    np.testing.assert_allclose(losses.guidance(patches, maps, jnp.asarray(kept)), expected, rtol=1e-6)
    assert losses.guidance(maps, maps, None).tolist() == [0, 0]


def test_what_is_not_known_does_not_count():
    scores, nan = random(3, 4), jnp.nan
    truth = jnp.asarray([[1, nan, 0, nan], [nan] * 4, [0, 1, 1, 0]], jnp.float32)

    def loss(scores):
        return losses.statements(4 * scores + 0.5, truth)

    def of_known(row, known):
        return losses.statements(4 * scores[row : row + 1, known] + 0.5, truth[row : row + 1, known])

    found = loss(scores)
    np.testing.assert_allclose(found[0], of_known(0, np.array([0, 2]))[0], rtol=1e-6)
    assert found[1] == 0
    np.testing.assert_allclose(found[2], of_known(2, np.arange(4))[0], rtol=1e-6)
    gradient = jax.grad(lambda s: loss(s).sum())(scores)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient == 0, np.isnan(truth))


def test_top_patches_by_hand():
    patches = jnp.asarray([[[1.0, 0.0], [0.0, 2.0], [3.0, 4.0], [-1.0, 0.0]]])
    texts = jnp.asarray([[5.0, 0.0], [0.0, -1.0]])
    # Cosines: with the first 1, 0, 0.6, -1; with the second 0, -1, -0.8, 0.
    np.testing.assert_allclose(losses.top_patch_scores(patches, texts, 1), [[1.0, 0.0]], atol=1e-6)
    np.testing.assert_allclose(losses.top_patch_scores(patches, texts, 3), [[1.6 / 3, -0.8 / 3]], atol=1e-6)


def test_gradients_agree_with_finite_differences():
    features, candidates, truth = random(3, 4), random(5, 4, seed=1), jnp.asarray([[1.0, 0.3], [0, jnp.nan], [0.5, 1]])
    same = jnp.zeros((3, 5), bool).at[0, 4].set(True)
    own = jnp.asarray([0, 1, 2])
    patches, texts = random(3, 6, 4, seed=2), random(2, 4, seed=3)

    def contrastive(features, candidates, log_scale):
        return losses.contrastive(features, candidates, own, jnp.exp(log_scale), same)

    def local(patches, texts, scale, bias):
        return losses.statements(scale * losses.top_patch_scores(patches, texts, 2) + bias, truth)

    def attributes(logits):
        return losses.statements(logits, truth)

    for function, arguments in (
        (contrastive, (features, candidates, jnp.float32(1.0))),
        (local, (patches, texts, jnp.float32(3.0), jnp.float32(-1.0))),
        (attributes, (random(3, 2, seed=4),)),
    ):
        check_grads(jax.jit(function), arguments, order=1, modes=["rev"], atol=2e-2, rtol=2e-2, eps=1e-2)
