"""Tip-Adapter, Tip-Adapter-F and CLIP-Adapter: by hand, and their training against plain PyTorch."""

import jax.numpy as jnp
import numpy as np
import pytest

from mpafer_jax.evaluation.baselines import adapters
from tests import needs
from tests.evaluation.baselines.validation import score, split

ORDER = np.stack([np.random.default_rng(step).permutation(12)[:6] for step in range(8)])  # 8 batches of 6 of 12 images


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def problem(classes=3, width=8):
    """Normalised features [12, D], one-hot labels, normalised class features [C, D]; CLIP's scale is 20."""
    rng = np.random.default_rng(0)
    values = np.eye(classes, dtype=np.float32)[np.arange(12) % classes]
    return unit(rng.standard_normal((12, width))), values, unit(rng.standard_normal((classes, width)))


def test_the_cache_by_hand():
    """Two keys with cosines 0.6 and 0.8 to the image; of two classes the second has both images' label in part."""
    keys, values = np.eye(2, dtype=np.float32), np.array([[1, 0], [0.25, 0.75]], np.float32)
    cache = adapters.Cache(keys, values, alpha=2.0, beta=5.0)
    near, nearer = np.exp(-5 * 0.4), np.exp(-5 * 0.2)
    expected = [[3 + 2 * (near + 0.25 * nearer), 1 + 2 * 0.75 * nearer]]
    image, clip_logits = np.array([[0.6, 0.8]], np.float32), np.array([[3, 1]], np.float32)
    np.testing.assert_allclose(cache.logits(image, clip_logits), expected, rtol=1e-5)


def test_the_cache_of_more_images_than_fit_at_once():
    rng = np.random.default_rng(1)
    images, betas = unit(rng.standard_normal((2 * 256 + 3, 8))), (0.5, 30.0)
    keys, values, _ = problem()
    expected = np.stack([np.exp(-beta * (1 - images @ keys.T)) @ values for beta in betas], axis=1)
    np.testing.assert_allclose(adapters.cache_scores(images, keys, values, betas), expected, rtol=1e-4, atol=1e-6)


def test_validation_chooses_alpha_and_beta():
    """One image of class 1 between three keys of class 0 and, nearer, one of class 1: only a narrow kernel is right."""
    angles = np.radians([40, 41, 42, -5])
    keys = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    values = np.eye(2, dtype=np.float32)[[0, 0, 0, 1]]
    validation, clip_logits = split([[7.0, 0.0]], [1]), np.array([[0.1, 0.0]], np.float32)

    def right(alpha, beta):
        scores = np.exp(-beta * (1 - np.cos(angles))) @ values
        return 0.1 + alpha * scores[0] < alpha * scores[1]

    first = next((a, b) for a in adapters.ALPHAS for b in adapters.BETAS if right(a, b))
    assert not right(first[0], adapters.BETAS[0])
    assert not right(adapters.ALPHAS[0], first[1])
    found = adapters.choose(keys, values, validation, clip_logits, score(validation))
    assert (found.alpha, found.beta) == first
    # Where all are right, or all are wrong, CLIP's own logits have the most weight.
    far = np.array([[0.0, 99.0]], np.float32)
    found = adapters.choose(keys, values, validation, far, score(validation))
    assert (found.alpha, found.beta) == (adapters.ALPHAS[0], adapters.BETAS[0])


def test_the_length_of_a_feature_changes_nothing():
    features, _, texts = problem()
    bottleneck = {name: jnp.asarray(x) for name, x in adapters.initial_bottleneck(8, seed=0).items()}
    one, other = (unit(np.asarray(adapters.adapted(bottleneck, size * features, 0.6))) for size in (1.0, 13.0))
    np.testing.assert_allclose(one @ texts.T, other @ texts.T, atol=1e-5)
    assert np.abs(one - features).max() > 0.05
    np.testing.assert_array_equal(adapters.adapted(bottleneck, features, 0.0), features)


def torch_training(parameters, logits_of, values):
    """The authors' loop: AdamW, a cosine to 0, a mean cross-entropy."""
    torch = needs.module("torch")
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, eps=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(ORDER))
    for rows in ORDER:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits_of(rows), torch.tensor(values[rows])).backward()
        optimizer.step()
        schedule.step()


@pytest.mark.torch
def test_tip_adapter_f_is_that_of_plain_pytorch():
    torch = needs.module("torch")
    features, values, texts = problem()
    data = {"features": features, "values": values, "clip_logits": 20 * features @ texts.T}
    found = adapters.train(
        adapters.tip_loss,
        {"keys": features},
        {**data, "alpha": np.float32(3.0), "beta": np.float32(5.5)},
        ORDER,
    )["keys"]
    keys = torch.nn.Linear(8, 12, bias=False)
    with torch.no_grad():
        keys.weight.copy_(torch.tensor(features))

    def logits(rows):
        affinity = keys(torch.tensor(features[rows]))
        cached = torch.exp(-(5.5 - 5.5 * affinity)) @ torch.tensor(values)
        return torch.tensor(data["clip_logits"][rows]) + 3.0 * cached

    torch_training(keys.parameters(), logits, values)
    expected = keys.weight.detach().numpy()
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert np.abs(expected - features).max() > 1e-3


@pytest.mark.torch
def test_clip_adapter_is_that_of_plain_pytorch():
    torch = needs.module("torch")
    features, values, texts = problem()
    start = adapters.initial_bottleneck(8, seed=3)
    data = {"features": features, "values": values, "texts": 2 * texts, "scale": np.float32(20)}
    found = adapters.train(adapters.adapter_loss, start, {**data, "ratio": np.float32(0.6)}, ORDER)
    down, up = torch.nn.Linear(8, 2, bias=False), torch.nn.Linear(2, 8, bias=False)
    with torch.no_grad():
        down.weight.copy_(torch.tensor(start["down"].T))
        up.weight.copy_(torch.tensor(start["up"].T))
    bottleneck = torch.nn.Sequential(down, torch.nn.ReLU(), up, torch.nn.ReLU())

    def logits(rows):
        image = 9 * torch.tensor(features[rows])  # as long as an encoder's
        mixed = 0.6 * bottleneck(image) + 0.4 * image
        return 20 * (mixed / mixed.norm(dim=-1, keepdim=True)) @ torch.tensor(texts).t()

    torch_training(bottleneck.parameters(), logits, values)
    for name, layer in (("down", down), ("up", up)):
        expected = layer.weight.detach().numpy().T
        np.testing.assert_allclose(found[name], expected, atol=2e-6, err_msg=name)
        assert np.abs(expected - start[name]).max() > 1e-3


def test_the_same_bits_twice():
    features, values, texts = problem()
    data = {"features": features, "values": values, "texts": texts, "scale": np.float32(20), "ratio": np.float32(0.2)}
    one, other = (
        adapters.train(adapters.adapter_loss, adapters.initial_bottleneck(8, seed=0), data, ORDER) for _ in range(2)
    )
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name])
