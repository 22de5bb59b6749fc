"""Text context alone: the trainer's own objective and order of images; it learns; validation chooses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mpafer_jax.data import pipeline
from mpafer_jax.data.splits import load_dataset
from mpafer_jax.evaluation.baselines import text_context
from mpafer_jax.evaluation.baselines.registry import Context
from mpafer_jax.method import build, steps
from mpafer_jax.method.features import FrozenFeatures
from mpafer_jax.method.forward import Forward, forward_features
from mpafer_jax.method.model import variables
from mpafer_jax.method.prompts import insert_context
from mpafer_jax.method.state import TrainState
from mpafer_jax.runtime import devices
from mpafer_jax.runtime.errors import NonFiniteError
from tests import tiny
from tests.jobs import runs

pytestmark = pytest.mark.training

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
PLAIN = tiny.model(learner=tiny.learner(num_visual=0), local_weight=0.0)


def test_it_is_the_trainers_update_without_the_other_parts():
    """The ordinary step with no visual prompts, no local score, beta = gamma = 0: same loss, gradient, prompts."""
    frozen, batch = tiny.frozen(PLAIN), tiny.batch(masked=3)
    params = PLAIN.learner.initial_params(0)
    assert list(params) == ["ctx"]
    tx = optax.sgd(0.5)
    state = TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))
    images = (batch["image"] / 255 - np.array(MEAN)) / np.array(STD)
    features = PLAIN.apply(
        variables(frozen.backbone, {}), jnp.asarray(images, jnp.float32), method="encode_image_frozen"
    )

    def one_step(forward, batch):
        objective = tiny.objective(terms=("cross_entropy",))
        step = steps.make_train_step(forward=forward, tx=tx, objective=objective, accumulate=2)
        body = functools.partial(step, state, frozen)
        found = jax.jit(jax.vmap(body, axis_name=devices.AXIS))({name: x[None] for name, x in batch.items()})
        return jax.tree.map(lambda x: x[0], found)

    expected = one_step(Forward(PLAIN, MEAN, STD), batch)
    cached = {**{k: v for k, v in batch.items() if k != "image"}, "image_features": np.asarray(features)}
    found = one_step(forward_features(PLAIN), cached)
    assert found[1].keys() == expected[1].keys()
    for name, (total, count) in expected[1].items():
        np.testing.assert_allclose(found[1][name][0], total, rtol=1e-4)
        assert found[1][name][1] == count
    moved = np.asarray(expected[0].params["ctx"] - params["ctx"])
    assert np.abs(moved).max() > 1e-4
    np.testing.assert_allclose(found[0].params["ctx"] - params["ctx"], moved, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("sampler", ["shuffle", "class_balanced"])
def test_a_step_sees_the_images_of_the_run_beside_it(sample, sampler):
    config = runs.config(sample, **{"data.sampler": sampler, "seed": 2})
    train = load_dataset(config.data).train
    positions = np.arange(len(train), dtype=np.float32)[:, None]
    features = FrozenFeatures(positions, train.labels, train.label_distributions)
    order = pipeline.train_order(train.labels, sampler, config.seed)
    batches = pipeline.train_batches(
        train, section=config.data, image_size=8, batch_size=16, seed=2, start_step=3, num_steps=6
    )
    for step, batch in enumerate(batches, start=3):
        found = text_context.batch_of_step(features, order, step, 16)
        np.testing.assert_array_equal(found["image_features"][:, 0], batch["index"])
        for name in ("label", "label_distribution", "mask"):
            np.testing.assert_array_equal(found[name], batch[name])


@pytest.fixture(scope="module")
def planted(sample):
    """Image features that are the texts of a hidden context, so that there is something to find; 5 classes."""
    changes = {"train.num_steps": 30, "train.eval_every": 10, "optimizer.learning_rate": 0.05}
    config = runs.config(sample, **changes)
    names = load_dataset(config.data).class_names
    experiment = build.build_experiment(config, names, build.load_frozen_clip(config))
    bound = experiment.model.bind(variables(experiment.frozen.backbone, {}))
    hidden = 0.3 * jax.random.normal(jax.random.key(9), (10, 64))
    texts, _ = bound.encode_hard_prompts(insert_context(experiment.frozen.soft_prompts, hidden, 1))
    texts = np.asarray(texts) / np.linalg.norm(texts, axis=1, keepdims=True)
    rng = np.random.default_rng(0)
    splits = {}
    for name, count in (("train", 200), ("validation", 50), ("test", 50)):
        labels = np.arange(count, dtype=np.int32) % len(names)
        noise = 0.3 * np.linalg.norm(texts - texts.mean(0), axis=1).mean() / 8
        features = texts[labels] + noise * rng.normal(size=(count, texts.shape[1]))
        splits[name] = FrozenFeatures(features.astype(np.float32), labels, np.eye(5, dtype=np.float32)[labels])
    return config, experiment, splits


def train(config, experiment, features, num_steps):
    return text_context.train(Context(config, None, experiment, num_steps, features))


def test_it_learns_and_leaves_the_run_beside_it_alone(planted):
    config, experiment, splits = planted
    trained = train(config, experiment, splits, 30)
    assert trained.step in (10, 20, 30)
    assert set(trained.metrics) == {"validation", "test"}
    assert trained.metrics["test"].war > 0.6
    assert experiment.model.learner.num_visual == 8


def test_it_begins_with_the_first_batch_of_the_run_beside_it(planted, monkeypatch):
    config, experiment, splits = planted
    seen, real = [], text_context.batch_of_step

    def recording(split, order, step, size):
        seen.append(order(step * size + np.arange(size)))
        return real(split, order, step, size)

    monkeypatch.setattr(text_context, "batch_of_step", recording)
    train(config.model_copy(update={"seed": 2}), experiment, splits, 10)
    expected = pipeline.train_order(splits["train"].labels, "shuffle", 2)(np.arange(160)).reshape(10, 16)
    np.testing.assert_array_equal(seen, expected)


def test_the_test_split_chooses_where_it_chooses_for_the_run_beside_it(planted, sample):
    """As validation would with the same images, on labels that training does not come nearer to."""
    _, experiment, splits = planted
    wrong = (splits["test"].labels + 1) % 5
    test = FrozenFeatures(splits["test"].image_features, wrong, np.eye(5, dtype=np.float32)[wrong])
    parts = {"train": splits["train"], "test": test}
    changes = {"optimizer.learning_rate": 0.05, "train.eval_every": 5, "data.validation_fraction": 0.0}
    usual = runs.config(sample, **changes)
    assert train(usual, experiment, parts, 30).step == 30
    expected = train(usual, experiment, {**parts, "validation": test}, 30)
    assert expected.step < 30
    on_test = runs.config(sample, **changes, **{"eval.select_on_test_split": True})
    found = train(on_test, experiment, parts, 30)
    assert found.step == expected.step
    assert found.metrics["test"].to_dict() == expected.metrics["test"].to_dict()


def test_without_validation_the_last_step_stands(planted):
    config, experiment, splits = planted
    trained = train(config, experiment, {name: splits[name] for name in ("train", "test")}, 30)
    assert trained.step == 30
    assert set(trained.metrics) == {"test"}


def test_a_loss_that_is_not_finite_stops_it(planted):
    config, experiment, splits = planted
    broken = FrozenFeatures(
        np.full_like(splits["train"].image_features, np.nan),
        splits["train"].labels,
        splits["train"].label_distributions,
    )
    with pytest.raises(NonFiniteError, match=r"step 1: not finite: .*'loss'"):
        train(config, experiment, {**splits, "train": broken}, 20)
