"""Tip-Adapter, Tip-Adapter-F and CLIP-Adapter: by hand, and their training against plain PyTorch."""

import dataclasses
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from mpafer_jax.data.pipeline import ShuffledOrder
from mpafer_jax.evaluation.baselines import adapters
from mpafer_jax.evaluation.baselines.registry import Context
from mpafer_jax.evaluation.metrics import softmax
from mpafer_jax.method import build
from mpafer_jax.method.state import Frozen
from tests import needs, tiny
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


def context(monkeypatch, texts, trained):
    """Of two classes with these texts; what `train` is given is collected, and what it returns is given."""
    seen = []

    def train(loss, params, data, order):
        seen.append((loss, params, data, order))
        return trained(data)

    monkeypatch.setattr(adapters, "train", train)
    config = SimpleNamespace(eval=SimpleNamespace(select_by="war"), data=SimpleNamespace(sampler="shuffle"), seed=SEED)
    texts = jnp.asarray(texts, jnp.float32)[None]
    built = build.Experiment(
        tiny.model(), Frozen({"logit_scale": jnp.log(20.0)}, None, texts, texts), ("a", "b"), (), None, "", "", None
    )
    votes = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.0, 1.0]], np.float32)
    of_train = split([[1.0, 0.2], [0.2, 1.0], [1.0, 0.4], [0.4, 1.0]], [0, 1, 0, 1])
    images = {
        "train": dataclasses.replace(of_train, label_distributions=votes),
        "validation": split([[3.0, 2.0], [2.0, 3.0]], [0, 1]),
        "test": split([[1.0, 0.9], [0.9, 1.0], [0.5, 0.1]], [0, 1, 0]),
    }
    return Context(config, None, built, 1, images), seen


SEED = 3


def test_tip_adapter_f_is_measured_with_the_keys_that_it_trains(monkeypatch):
    """Texts are those of the other class, so that images alone are right; trained keys are farther apart than these."""
    keys = unit(np.array([[3.0, -1.0], [-1.0, 3.0], [3.0, -2.0], [-2.0, 3.0]]))
    made, seen = context(monkeypatch, [[0, 1], [1, 0]], lambda data: {"keys": jnp.asarray(keys)})
    plain, _ = adapters.tip_adapter(made)
    metrics, chosen = adapters.tip_adapter_f(made)
    ((loss, params, data, order),) = seen
    start = made.once(adapters._tip_adapter)
    assert loss is adapters.tip_loss
    features = unit(made.features["train"].image_features)
    np.testing.assert_allclose(params["keys"], features, rtol=1e-6)
    np.testing.assert_allclose(data["features"], features, rtol=1e-6)
    np.testing.assert_allclose(data["clip_logits"], 20 * features[:, ::-1], rtol=1e-5)
    assert (data["alpha"], data["beta"]) == (np.float32(start.alpha), np.float32(start.beta))
    # Twenty epochs of all four images, each in the run's order.
    assert order.tolist() == ShuffledOrder(SEED, 4)(np.arange(80)).reshape(20, 4).tolist()
    validation, values = made.features["validation"], made.features["train"].label_distributions
    np.testing.assert_array_equal(data["values"], values)
    logits = 20 * unit(validation.image_features)[:, ::-1]
    expected = adapters.choose(keys, values, validation, logits, made.score)
    assert chosen == {"alpha": expected.alpha, "beta": expected.beta}
    assert set(metrics) == {"validation", "test"}
    test = unit(made.features["test"].image_features)
    logits = expected.logits(test, 20 * test[:, ::-1])
    assert metrics["test"].war == pytest.approx(np.mean(logits.argmax(axis=1) == [0, 1, 0]))
    of_labels = softmax(logits)[np.arange(3), [0, 1, 0]]
    assert metrics["test"].cross_entropy == pytest.approx(-np.mean(np.log(of_labels)), rel=1e-4)
    assert metrics["test"].cross_entropy != pytest.approx(plain["test"].cross_entropy, rel=1e-3)


def test_clip_adapter_takes_the_ratio_that_is_best_on_validation(monkeypatch):
    """Only that of 0.6 leaves features as they are; the others answer with the first class."""

    def trained(data):
        away = 0.0 if data["ratio"] == np.float32(0.6) else 100.0
        return {"down": jnp.ones((2, 1)), "up": jnp.array([[away, 0.0]])}

    made, seen = context(monkeypatch, np.eye(2), trained)
    metrics, chosen = adapters.clip_adapter(made)
    assert chosen == {"ratio": 0.6}
    assert (metrics["validation"].war, metrics["test"].war) == (1.0, 1.0)
    assert [float(data["ratio"]) for _, _, data, _ in seen] == pytest.approx(adapters.RATIOS)
    for loss, start, data, order in seen:
        assert loss is adapters.adapter_loss
        assert float(data["scale"]) == pytest.approx(20)
        np.testing.assert_array_equal(data["values"], made.features["train"].label_distributions)
        assert order.tolist() == ShuffledOrder(SEED, 4)(np.arange(800)).reshape(200, 4).tolist()
        for name, value in adapters.initial_bottleneck(2, SEED).items():
            np.testing.assert_array_equal(start[name], value)


def test_the_first_bottleneck_is_pytorchs_default():
    """Uniform within 1 / sqrt(inputs)."""
    start = adapters.initial_bottleneck(400, seed=0)
    assert {name: value.shape for name, value in start.items()} == {"down": (400, 100), "up": (100, 400)}
    for name, limit in (("down", 1 / 20), ("up", 1 / 10)):
        assert 0.99 * limit < np.abs(start[name]).max() <= limit
        assert np.std(start[name]) == pytest.approx(limit / np.sqrt(3), rel=0.02)


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
