"""Steps: several devices = 1 device, parts = whole, masked = absent, nothing but prompts moves."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mpafer_jax.method import losses, steps
from mpafer_jax.method.model import variables
from mpafer_jax.method.state import TrainState
from mpafer_jax.runtime import devices
from tests import tiny
from tests.tiny import FORWARD, MEAN, MODEL, STD, assert_close

TX = optax.sgd(0.1, momentum=0.9)
OBJECTIVE = tiny.objective(temperature=0.1)


def fresh_state():
    params = MODEL.learner.initial_params(0)
    return TrainState(jnp.zeros((), jnp.int32), params, TX.init(params))


@functools.cache
def compiled(num_devices, options, terms, accumulate, trained):
    """The step on any number of virtual devices: the named axis is all it knows of them. Weights are an argument."""

    @jax.jit
    def step(state, frozen, weights, batch):
        weighted = [dataclasses.replace(term, weight=lambda _, name=term.name: weights[name]) for term in terms]
        objective = losses.Objective(options, tuple(weighted))
        of_one = steps.make_train_step(
            forward=FORWARD, tx=TX, objective=objective, accumulate=accumulate, trained=trained
        )
        parts = {name: x.reshape(num_devices, -1, *x.shape[1:]) for name, x in batch.items()}
        result = jax.vmap(functools.partial(of_one, state, frozen), axis_name=devices.AXIS)(parts)
        return jax.tree.map(lambda x: x[0], result)

    return step


def step_on(
    num_devices, batch, *, options=OBJECTIVE.options, weights=None, terms=OBJECTIVE.terms, accumulate=1, trained=None
):
    step = compiled(num_devices, options, terms, accumulate, trained)
    weights = {term.name: jnp.float32(1 if weights is None else weights.get(term.name, 0)) for term in terms}
    return step(fresh_state(), tiny.frozen(MODEL), weights, batch)


def means(metrics):
    return {name: float(total) / float(count) for name, (total, count) in metrics.items()}


def normalized(batch):
    return jnp.asarray((batch["image"] / 255 - np.array(MEAN)) / np.array(STD), jnp.float32)


@pytest.fixture(scope="module")
def on_one_device():
    return step_on(1, tiny.batch(masked=3))


@pytest.mark.devices
def test_real_devices_give_the_numbers_of_one(on_one_device):
    step = steps.make_train_step(forward=FORWARD, tx=TX, objective=OBJECTIVE)
    step = devices.data_parallel(step, donate=(0,))
    frozen = devices.replicate(tiny.frozen(MODEL))
    state, metrics = step(devices.replicate(fresh_state()), frozen, devices.shard_batch(tiny.batch(masked=3)))
    assert len(state.params["ctx"].sharding.device_set) == jax.local_device_count() > 1
    assert means(metrics) == pytest.approx(means(on_one_device[1]), rel=2e-4)
    assert_close(state.params, on_one_device[0].params)
    assert int(state.step) == 1
    # The outputs feed straight back.
    again, _ = step(state, frozen, devices.shard_batch(tiny.batch(seed=1)))
    assert int(again.step) == 2


@pytest.mark.parametrize("name", [term.name for term in losses.TERMS])
def test_every_loss_term_alone_does_not_depend_on_the_number_of_devices(name):
    one, four = (step_on(n, tiny.batch(), weights={name: 5.0}, terms=losses.TERMS) for n in (1, 4))
    assert_close(one[0].params, four[0].params)
    assert means(one[1]) == pytest.approx(means(four[1]), rel=2e-4)
    assert means(one[1])["loss"] == pytest.approx(5 * means(one[1])[name])


def test_parts_one_after_the_other_give_the_update_of_the_whole(on_one_device):
    state, metrics = step_on(2, tiny.batch(masked=3), accumulate=2)
    assert_close(state.params, on_one_device[0].params)
    assert means(metrics) == pytest.approx(means(on_one_device[1]), rel=2e-4)


@pytest.mark.parametrize("changes", [{"class_weights": "inverse_frequency"}, {"logit_adjustment": 1.0}])
def test_a_correction_of_imbalance_does_not_depend_on_devices_and_parts(on_one_device, changes):
    """Each device and part has other classes, and the last one no image at all."""
    options, batch = OBJECTIVE.options.model_copy(update=changes), tiny.batch(masked=3)
    one = step_on(1, batch, options=options)
    assert means(one[1])["cross_entropy"] != pytest.approx(means(on_one_device[1])["cross_entropy"], rel=1e-2)
    order = np.argsort(batch["label"] + 3 * (1 - batch["mask"]))
    four = step_on(4, {name: x[order] for name, x in batch.items()}, options=options, accumulate=2)
    assert_close(one[0].params, four[0].params)
    assert means(one[1]) == pytest.approx(means(four[1]), rel=2e-4)


def test_masked_images_count_nowhere(on_one_device):
    batch = tiny.batch(masked=3)
    batch["image"][-3:] = 255 - batch["image"][-3:]
    batch["label"][-3:] = 0
    state, metrics = step_on(1, batch)
    assert_close(state.params, on_one_device[0].params, rtol=0, atol=1e-7)
    assert float(metrics["accuracy"][1]) == 13


def test_the_update_is_the_gradient_of_the_total_loss():
    """An independent computation of Eq. 12 and its gradient, without steps.py."""
    batch, frozen, params = tiny.batch(), tiny.frozen(MODEL), fresh_state().params

    @jax.jit
    @jax.value_and_grad
    def loss(params, frozen, images):
        logits, out = MODEL.apply(variables(frozen.backbone, params), images, frozen.soft_prompts)
        cross = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()
        token = losses.contrastive_alignment(out["token_features"], frozen.hard_token_features[0], 0.1).mean()
        prompt = losses.contrastive_alignment(out["text_features"], frozen.hard_text_features[0], 0.1).mean()
        visual = losses.cosine_prototype_alignment(out["image_features"], frozen.prototypes, batch["label"]).mean()
        return cross + token + prompt + visual

    value, gradient = loss(params, frozen, normalized(batch))
    moved, metrics = step_on(4, batch)
    assert means(metrics)["loss"] == pytest.approx(float(value), rel=1e-4)
    assert_close(moved.params, jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient))
    assert means(metrics)["grad_norm"] == pytest.approx(float(optax.tree.norm(gradient)), rel=1e-3)
    assert all(float(jnp.abs(g).max()) > 1e-4 for g in gradient.values())


def test_64_bit_mode_changes_no_type():
    state, frozen = fresh_state(), tiny.frozen(MODEL)
    parts = {name: x[None] for name, x in {**tiny.batch(), "index": np.arange(16)}.items()}

    train = functools.partial(steps.make_train_step(forward=FORWARD, tx=TX, objective=OBJECTIVE), state, frozen)
    evaluate = functools.partial(steps.make_eval_step(FORWARD), state.params, frozen, jnp.zeros((3, 20), jnp.float32))
    with jax.enable_x64(True):
        (moved, metrics), outputs = (
            jax.eval_shape(jax.vmap(body, axis_name=devices.AXIS), parts) for body in (train, evaluate)
        )
    del outputs["index"]
    types = {leaf.dtype for leaf in jax.tree.leaves((moved.params, moved.opt_state, metrics, outputs))}
    assert types == {jnp.dtype("float32")}


def test_each_update_drops_channels_of_its_own():
    """CAFE's, by the number of earlier updates, which a run that resumes has too."""

    def forward(params, frozen, part):
        features = part["features"] * params["mask"]
        return features[:, :3], {"image_features": features}

    features, labels = np.random.default_rng(0).normal(size=(8, 20)).astype(np.float32), np.arange(8) % 3
    targets, params = np.eye(3, dtype=np.float32)[labels], {"mask": jnp.ones(20)}
    batch = {"features": features, "label": labels, "label_distribution": targets, "mask": np.ones(8, np.float32)}
    objective = tiny.objective(terms=("channel_separation",), channel_separation=1.0)
    step = steps.make_train_step(forward=forward, tx=TX, objective=objective)
    step = jax.jit(jax.vmap(step, axis_name=devices.AXIS, in_axes=(None, None, 0), out_axes=None))
    found = []
    for number in range(3):
        state = TrainState(jnp.asarray(number, jnp.int32), params, TX.init(params))
        _, metrics = step(state, tiny.frozen(MODEL), {name: x[None] for name, x in batch.items()})
        found.append(means(metrics)["channel_separation"])
        kept = losses.kept_channels(jnp.int32(number), 3, 6)  # of 20 channels, six for each of three classes
        expected = losses.channel_separation(jnp.asarray(features), jnp.asarray(targets), kept)
        assert found[-1] == pytest.approx(float(jnp.mean(expected)), rel=1e-5)
    assert len({round(value, 3) for value in found}) > 1


def test_what_is_frozen_has_no_gradient_and_no_part_in_its_norm(on_one_device):
    moved, metrics = step_on(1, tiny.batch(masked=3), trained=("ctx",))
    start, whole = fresh_state().params, on_one_device[0].params
    assert_close(moved.params, {"ctx": whole["ctx"], "visual_prompts": start["visual_prompts"]})
    gradient = (start["ctx"] - whole["ctx"]) / 0.1
    assert means(metrics)["grad_norm"] == pytest.approx(float(jnp.linalg.norm(gradient)), rel=1e-3)
    loss = means(on_one_device[1])["loss"]
    assert means(metrics)["loss"] == pytest.approx(loss, rel=1e-6)


def test_the_eval_step_gives_every_image_of_all_devices_with_its_position():
    step = devices.data_parallel(steps.make_eval_step(FORWARD))
    params, frozen = MODEL.learner.initial_params(0), tiny.frozen(MODEL)
    text_features = jax.jit(FORWARD.encode_texts)(params, frozen)
    batch = {**tiny.batch(masked=5), "index": np.random.default_rng(0).permutation(16)}
    fed = {name: batch[name] for name in ("image", "index", "mask")}
    rows = devices.to_host(step(*devices.replicate((params, frozen, text_features)), devices.shard_batch(fed)))
    logits, out = jax.jit(MODEL.apply)(variables(frozen.backbone, params), normalized(batch), frozen.soft_prompts)
    order = np.argsort(batch["index"])[rows["index"]]
    np.testing.assert_array_equal(batch["mask"][order], rows["mask"])
    np.testing.assert_allclose(rows["logits"], np.asarray(logits)[order], rtol=2e-4, atol=1e-4)
    np.testing.assert_allclose(rows["patch_scores"], np.asarray(out["patch_scores"])[order], atol=1e-5)
    features = np.asarray(out["image_features"] / jnp.linalg.norm(out["image_features"], axis=1, keepdims=True))
    np.testing.assert_allclose(rows["image_features"], features[order], atol=1e-5)
    mean_patches = np.asarray(out["patch_features"]).mean(axis=1)  # not normalised, as in prediction
    np.testing.assert_allclose(rows["mean_patch"], mean_patches[order], rtol=1e-4, atol=1e-5)


def test_uneven_batches_are_refused_with_the_sizes_that_do():
    with pytest.raises(ValueError, match=r"config.train.batch_size is 21.*2 devices x 2.*use 24 or 20"):
        devices.check_batch_size("train.batch_size", 21, 2)
