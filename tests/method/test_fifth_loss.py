"""A fifth term is one function and one `Term`: the method trains with it, and what names its terms does not."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import rafdb
from configs.common import METHODS
from mpafer_jax.artifacts.run_dir import flatten
from mpafer_jax.config.schema import Config
from mpafer_jax.evaluation import protocol
from mpafer_jax.evaluation.baselines import text_context
from mpafer_jax.method import build, losses, steps
from mpafer_jax.method.features import FrozenFeatures
from mpafer_jax.method.forward import Forward
from mpafer_jax.method.state import TrainState
from mpafer_jax.runtime import devices
from tests import tiny
from tests.jobs import runs


def entropy(context: losses.Context) -> jax.Array:
    """Of the predictions, [B]."""
    log_probabilities = jax.nn.log_softmax(context.logits)
    return -jnp.sum(jnp.exp(log_probabilities) * log_probabilities, axis=-1)


FIFTH = losses.Term("entropy", "Entropy of the predictions", "example", lambda loss: 0.5, entropy)


@pytest.fixture
def fifth(monkeypatch):
    monkeypatch.setattr(losses, "TERMS", (*losses.TERMS, FIFTH))


def configured(argument: str) -> Config:
    config = rafdb.get_config(argument)
    config.data.dir = "/data"
    return Config.from_config_dict(config)


def one_step(objective):
    model, tx = tiny.model(), optax.sgd(0.1)
    params = model.learner.initial_params(0)
    state = TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))
    forward = Forward(model, (0.5, 0.5, 0.5), (0.3, 0.3, 0.3))
    step = functools.partial(steps.make_train_step(forward=forward, tx=tx, objective=objective), state)
    step = jax.vmap(functools.partial(step, tiny.frozen(model)), axis_name=devices.AXIS)
    state, metrics = jax.tree.map(lambda x: x[0], jax.jit(step)({name: x[None] for name, x in tiny.batch().items()}))
    return state.params, {name: float(total / count) for name, (total, count) in metrics.items()}


def test_the_method_trains_with_it(fifth, monkeypatch):
    objective = losses.Objective.of(configured("").loss)
    assert list(objective.weights) == [
        "cross_entropy",
        "token_alignment",
        "prompt_alignment",
        "prototype_alignment",
        "entropy",
    ]
    params, metrics = one_step(objective)
    weighted = sum(weight * metrics[name] for name, weight in objective.weights.items())
    assert metrics["loss"] == pytest.approx(weighted, rel=1e-5)
    assert metrics["entropy"] > 0
    assert protocol.method_name(flatten(configured("").model_dump())) == "MPA-FER + entropy"
    monkeypatch.undo()
    without, metrics = one_step(losses.Objective.of(configured("").loss))
    assert "entropy" not in metrics
    assert all(np.abs(params[name] - without[name]).max() > 1e-5 for name in params)


@pytest.mark.parametrize("method", METHODS)
def test_no_other_method_does(method, fifth):
    objective = losses.Objective.of(configured(method).loss)
    expected = {"cross_entropy", "prompt_alignment"} if method == "kgcoop" else {"cross_entropy"}
    assert objective.weights.keys() == expected
    assert protocol.method_name(flatten(configured(method).model_dump())) == "tuned prompts"


def test_nor_does_the_baseline_beside_the_method(sample, monkeypatch):
    config = runs.config(sample, **{"train.eval_every": 3, "optimizer.warmup_steps": 0})
    experiment = build.build_experiment(config, ("anger", "fear", "joy"), build.load_frozen_clip(config))
    labels = np.arange(48, dtype=np.int32) % 3
    image_features = np.random.default_rng(0).normal(size=(48, 64)).astype(np.float32)
    features = FrozenFeatures(image_features, labels, np.eye(3, dtype=np.float32)[labels])

    def train():
        parts = {"train": features, "validation": features}
        return dataclasses.astuple(text_context.train(config, experiment, parts, 6))

    alone = train()
    monkeypatch.setattr(losses, "TERMS", (*losses.TERMS, FIFTH))
    assert train() == alone
    monkeypatch.setattr(losses, "TERMS", (losses.Term("cross_entropy", "", "example", lambda loss: 1.0, entropy),))
    assert train() != alone  # what is trained shows
