"""A fifth term is one function and one `Term`: the method trains with it, and what names its terms does not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import rafdb
from configs.common import METHODS
from mpafer_jax.artifacts.run_dir import flatten
from mpafer_jax.config.schema import Config
from mpafer_jax.evaluation import protocol
from mpafer_jax.evaluation.baselines import text_context
from mpafer_jax.evaluation.baselines.registry import Context
from mpafer_jax.method import build, losses
from mpafer_jax.method.features import FrozenFeatures
from tests import tiny
from tests.jobs import runs
from tests.method import test_steps


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


def test_the_method_trains_with_it(fifth):
    weights = losses.Objective.of(configured("").loss).weights
    assert list(weights) == [
        "cross_entropy",
        "token_alignment",
        "prompt_alignment",
        "prototype_alignment",
        "entropy",
    ]
    assert protocol.method_name(flatten(configured("").model_dump())) == "MPA-FER + entropy"
    state, metrics = test_steps.step_on(1, tiny.batch(), weights=weights, terms=losses.TERMS)
    metrics = test_steps.means(metrics)
    assert metrics["loss"] == pytest.approx(sum(w * metrics[name] for name, w in weights.items()), rel=1e-5)
    assert metrics["entropy"] > 0
    without, _ = test_steps.step_on(1, tiny.batch(), weights={**weights, "entropy": 0.0}, terms=losses.TERMS)
    assert all(np.abs(state.params[name] - value).max() > 1e-5 for name, value in without.params.items())


@pytest.mark.parametrize("method", METHODS)
def test_no_other_method_does(method, fifth):
    objective = losses.Objective.of(configured(method).loss)
    extra = {
        "promptsrc": ("image_consistency", "text_consistency", "logit_consistency"),
        "cafe": ("channel_separation", "channel_diversity"),
    }
    others, fields = extra.get(method, ()), {"promptsrc": ["averaged prompts"], "ceprompt": ["normalised scores"]}
    expected = {"cross_entropy", "prompt_alignment"} if method == "kgcoop" else {"cross_entropy", *others}
    assert objective.weights.keys() == expected
    assert protocol.method_name(flatten(configured(method).model_dump())) == " + ".join(
        ["LoRA" if method == "lora" else "tuned prompts", *others, *fields.get(method, [])]
    )


def test_nor_does_the_baseline_beside_the_method(sample, monkeypatch):
    def never(context):
        raise AssertionError

    monkeypatch.setattr(losses, "TERMS", (*losses.TERMS, dataclasses.replace(FIFTH, fn=never)))
    config = runs.config(sample, **{"train.eval_every": 1, "optimizer.warmup_steps": 0})
    experiment = build.build_experiment(config, ("anger", "fear", "joy"), build.load_frozen_clip(config))
    labels = np.arange(48, dtype=np.int32) % 3
    image_features = np.random.default_rng(0).normal(size=(48, 64)).astype(np.float32)
    features = FrozenFeatures(image_features, labels, np.eye(3, dtype=np.float32)[labels])
    text_context.train(Context(config, None, experiment, 1, {"train": features, "validation": features}))
