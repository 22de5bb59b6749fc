"""PromptSRC: its losses and its average by hand, what it refuses, and a run. Parity of towers: test_maple_parity.py."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs.common import METHODS
from mpafer_jax.artifacts import checkpoints
from mpafer_jax.artifacts.run_checkpoints import Checkpoints
from mpafer_jax.backbones.clip import model as clip_lib
from mpafer_jax.config.schema import ModelSections
from mpafer_jax.jobs import train
from mpafer_jax.method import losses, optim, steps
from mpafer_jax.method.model import variables
from mpafer_jax.method.prompts import PromptLearner
from mpafer_jax.method.promptsrc import PromptSrcPrompts
from mpafer_jax.method.state import Frozen, TrainState
from mpafer_jax.runtime import devices
from mpafer_jax.runtime.errors import ConfigError
from tests import tiny
from tests.jobs import runs
from tests.tiny import FORWARD, MEAN, MODEL, STD

SPEC = clip_lib.CLIP(tiny.CLIP).spec


def test_consistency_by_hand():
    features = jnp.array([[3.0, 4.0], [2.0, 0.0]])  # directions (0.6, 0.8) and (1, 0)
    frozen = jnp.array([[0.0, -2.0], [5.0, 0.0]])  # (0, -1) and (1, 0)
    np.testing.assert_allclose(losses.consistency(features, frozen), [(0.6 + 1.8) / 2, 0], rtol=1e-6)


def test_logit_consistency_by_hand():
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.2, 0.3, 0.5]])) + 7  # softmax ignores the constant
    frozen = jnp.log(jnp.array([[0.25, 0.5, 0.25], [0.2, 0.3, 0.5]]))
    divergence = 0.25 * np.log(0.25 / 0.5) + 0.5 * np.log(0.5 / 0.25)
    np.testing.assert_allclose(losses.logit_consistency(logits, frozen), [divergence / 3, 0], rtol=1e-5, atol=1e-7)


def test_the_frozen_clip_sees_no_prompts():
    """Its features are of the images alone, and its logits compare them with the hard prompts by the run's head."""
    params, frozen, batch = MODEL.learner.initial_params(0), tiny.frozen(MODEL), tiny.batch(4)
    _, out = jax.jit(FORWARD)(params, frozen, batch)
    images = jnp.asarray((batch["image"] / 255 - np.array(MEAN)) / np.array(STD), jnp.float32)
    features, patches = (
        np.asarray(MODEL.apply(variables(frozen.backbone, {}), images, method=f"encode_{name}_frozen"))
        for name in ("image", "patches")
    )
    np.testing.assert_allclose(out["frozen_image_features"], features, rtol=1e-4, atol=1e-5)
    assert np.abs(out["image_features"] - features).max() > 1e-3
    image, text, patch = (
        x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (features, frozen.hard_text_features[0], patches)
    )
    local = np.sort(patch @ text.T, axis=1)[:, -MODEL.top_k :].mean(axis=1)
    np.testing.assert_allclose(out["frozen_logits"], 20 * (image @ text.T + local), rtol=1e-4, atol=1e-3)  # s = 20


@pytest.mark.parametrize("head", [{}, {"local_weight": 0.0}, {"local_weight": 0.3, "normalize_scores": True}])
def test_where_nothing_is_learned_predictions_do_not_diverge_from_those_of_the_frozen_clip(head):
    """Whatever the head: a difference of its scale, as of scores with and without patches, is none of predictions."""
    forward = dataclasses.replace(FORWARD, model=tiny.model(learner=PromptLearner(), **head))
    frozen = tiny.frozen(MODEL)
    texts = forward.encode_texts({}, frozen)
    weights = jnp.asarray(np.random.default_rng(0).uniform(0.5, 1.5, (3, SPEC.num_patches)), jnp.float32)
    frozen = frozen.replace(hard_text_features=texts[None], patch_weights=weights)
    logits, out = jax.jit(forward)({}, frozen, tiny.batch(4))
    assert np.abs(logits - logits[:, :1]).max() > 1e-2
    np.testing.assert_allclose(out["frozen_logits"], logits, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(losses.logit_consistency(logits, out["frozen_logits"]), 0, atol=1e-5)


@pytest.mark.parametrize(
    ("num_steps", "parts", "mean", "deviation"),
    [(40, 20, 15, 1), (47, 20, 15, 1), (30, 3, 30, 30), (5, 8, 6, 2), (4, 1, 1, 1), (60, 20, -100, 1)],
)
def test_the_running_average_ends_as_the_gaussian_average(num_steps, parts, mean, deviation):
    shares = optim.gaussian_shares(num_steps, parts, mean, deviation)
    prompts = np.random.default_rng(0).normal(size=(num_steps, 3))
    average = np.zeros(3)
    for share, now in zip(shares, prompts, strict=True):
        average = average + share * (now - average)
    part = np.arange(1, parts + 1)
    exponents = -0.5 * ((part - mean) / deviation) ** 2
    weights = np.exp(exponents - exponents.max())
    after = prompts[np.ceil(part * num_steps / parts).astype(int) - 1]
    np.testing.assert_allclose(average, weights @ after / weights.sum(), rtol=1e-5, atol=1e-6)
    first_end = -(-num_steps // parts)
    np.testing.assert_array_equal(shares[:first_end], 1)  # the prompts themselves


def test_the_averaged_optimizer_trains_as_the_one_inside():
    """Momentum and weight decay see the trained prompts; the parameters outside are their average."""
    inner = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.5, momentum=0.9))
    tx = optim.gaussian_average(inner, optim.gaussian_shares(6, 3, 2.0, 1.0))
    start = {"ctx": jnp.array([1.0, -2.0])}
    alone, alone_state = start, inner.init(start)
    params, state = start, tx.init(start)
    trajectory = []
    for _ in range(6):
        gradient = jax.tree.map(jnp.sin, alone)
        updates, alone_state = inner.update(gradient, alone_state, alone)
        alone = optax.apply_updates(alone, updates)
        trajectory.append(np.asarray(alone["ctx"]))
        gradient = jax.tree.map(jnp.sin, optim.trained_params(params, state))
        updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(optim.trained_params(params, state)["ctx"], alone["ctx"], rtol=1e-6)
    weights = np.exp([-0.5, 0, -0.5])
    expected = weights @ np.stack([trajectory[1], trajectory[3], trajectory[5]]) / weights.sum()
    np.testing.assert_allclose(params["ctx"], expected, rtol=1e-5)
    assert optim.trained_params(start, alone_state) is start


def test_gradients_are_taken_at_the_trained_prompts_and_not_at_their_average():
    """So that the prompts go the way that they go without an average, which the parameters outside do not."""
    rng = np.random.default_rng(0)
    batch = {"x": rng.normal(size=(1, 8, 4)).astype(np.float32), "label": rng.integers(0, 3, (1, 8))}
    batch |= {"label_distribution": np.eye(3, dtype=np.float32)[batch["label"]], "mask": np.ones((1, 8), np.float32)}
    frozen = Frozen({}, None, jnp.zeros((0, 3, 4)), jnp.zeros((0, 3, 4)))

    def after(tx, updates):
        step = steps.make_train_step(
            forward=lambda params, _, part: (part["x"] @ params["w"], {}),
            tx=tx,
            objective=tiny.objective(terms=("cross_entropy",)),
        )
        state = TrainState(jnp.zeros((), jnp.int32), {"w": jnp.ones((4, 3))}, tx.init({"w": jnp.ones((4, 3))}))
        for _ in range(updates):
            state, _ = jax.vmap(step, axis_name=devices.AXIS, in_axes=(None, None, 0), out_axes=None)(
                state, frozen, batch
            )
        return state

    inner = optax.sgd(1.0, momentum=0.9)
    averaged = after(optim.gaussian_average(inner, np.array([1, 0, 0, 0.5], np.float32)), 4)
    first, last = (after(inner, updates).params["w"] for updates in (1, 4))
    np.testing.assert_allclose(optim.trained_params(averaged.params, averaged.opt_state)["w"], last, rtol=1e-5)
    np.testing.assert_allclose(averaged.params["w"], (first + last) / 2, rtol=1e-5)
    assert np.abs(first - last).max() > 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ctx.class_specific": True}, "set ctx.class_specific to False"),
        ({"visual_prompts.num_prompts": 0}, "num_prompts, found 0, above 0"),
        ({"visual_prompts.layers": (2, 3)}, r"'promptsrc' .* up to 2 at most .*found \(2, 3\)"),
    ],
)
def test_what_does_not_fit_is_refused(sample, changes, message):
    config = runs.config(sample, **{**METHODS["promptsrc"], **changes})
    with pytest.raises(ConfigError, match=message):
        PromptSrcPrompts.configured(ModelSections.model_construct(**dict(config)), SPEC, 3)


@pytest.mark.training
def test_a_run_sums_its_terms_leaves_the_average_and_resumes(sample, tmp_path):
    changes = {
        **METHODS["promptsrc"],
        "train.num_steps": 4,
        "train.log_every": 1,
        "optimizer.warmup_steps": 0,
        "optimizer.average": 2,
        "optimizer.average_mean": 1.5,
    }
    config = runs.config(sample, **changes)
    summary = train.train_and_evaluate(config, tmp_path)
    assert summary["trained_parameters"].keys() == {"text_prompts", "visual_prompts"}
    for line in (line for line in runs.metrics(tmp_path) if line["kind"] == "train"):
        terms = {name: line[name] for name in ("cross_entropy", *METHODS["promptsrc"]["loss.terms"][1:])}
        assert all(value > 0 for value in terms.values()), terms
        weights = {"cross_entropy": 1, "image_consistency": 10, "text_consistency": 25, "logit_consistency": 1}
        assert line["loss"] == pytest.approx(sum(weights[name] * value for name, value in terms.items()), rel=1e-5)
    # Equal weights of the prompts after steps 2 and 4: the average is the middle of both.
    run = train.prepare(config, tmp_path)
    store = Checkpoints(tmp_path, keep=20, select_by="war")
    state = train.start(run, store)
    store.close()
    after_two, _, _ = checkpoints.load(tmp_path / "checkpoints" / "step_2", "last")
    for name, average in state.params.items():
        trained = optim.trained_params(state.params, state.opt_state)[name]
        np.testing.assert_allclose(average, (after_two[name] + trained) / 2, rtol=1e-4, atol=1e-7)
        assert np.abs(average - trained).max() > 1e-6
    # A run that died after step 2 goes on to the same average, to the bit.
    shutil.rmtree(tmp_path / "checkpoints" / "step_4")
    (tmp_path / "summary.json").unlink()
    train.train_and_evaluate(config, tmp_path)
    for name, value in checkpoints.load(tmp_path, "last")[0].items():
        np.testing.assert_array_equal(value, state.params[name])
