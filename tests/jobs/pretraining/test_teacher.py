"""The teacher: several devices equal one, batch statistics too; it learns; its maps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mpafer_jax.backbones.clip.rules import flatten
from mpafer_jax.jobs.pretraining import teacher
from mpafer_jax.jobs.pretraining.optimizer import make_optimizer
from mpafer_jax.method.state import TrainState
from mpafer_jax.runtime import devices
from tests.jobs.pretraining import test_steps

NET = teacher.ConvNet((4, 8, 8), 2, 3)
MEAN, STD, GROUPS = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), [[0, 2]]
PLAIN = optax.sgd(0.1)  # Muon makes orthogonal even what is nearly 0


@functools.cache
def first_variables():
    return teacher.init(NET, 16, seed=0)


def first_state(tx):
    variables = jax.tree.map(jnp.array, first_variables())
    kernel = variables["params"]["Dense_0"]["kernel"]  # zeros: no gradient would reach the convolutions
    variables["params"]["Dense_0"]["kernel"] = jax.random.normal(jax.random.key(1), kernel.shape)
    return TrainState(step=jnp.zeros((), jnp.int32), params=variables, opt_state=tx.init(variables["params"]))


def make_step(tx):
    return teacher.make_train_step(NET, tx, GROUPS, MEAN, STD)


@functools.cache
def virtual_step(tx):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "data_parallel", test_steps.virtual)
        return make_step(tx)


def batch(step=0):
    """Red, green and blue images; statement 0 is true of the red, 2 of the others, 1 of the green."""
    rng = np.random.default_rng(step)
    kinds = rng.integers(0, 3, 8)
    image = rng.integers(0, 120, (8, 16, 16, 3)).astype(np.uint8)
    image[np.arange(8), :, :, kinds] += 120
    truth = np.stack([kinds == 0, kinds == 1, kinds != 0], axis=1).astype(np.float32)
    truth[0] = np.nan
    return {"image": image, "truth": truth}


def cut(data, parts):
    return {name: value.reshape(parts, -1, *value.shape[1:]) for name, value in data.items()}


@pytest.fixture(scope="module")
def on_one():
    return test_steps.on_host(*virtual_step(PLAIN)(first_state(PLAIN), cut(batch(), 1)))


def assert_same(found, expected):
    (state, metrics), (one, of_one) = found, expected
    assert metrics == pytest.approx(of_one, rel=1e-4)
    assert int(state.step) == 1
    before = flatten(first_state(PLAIN).params)
    for path, value in flatten(one.params).items():
        np.testing.assert_allclose(flatten(state.params)[path], value, rtol=1e-3, atol=1e-5, err_msg=path)
        assert not np.array_equal(value, before[path]), path


def test_four_devices_give_the_numbers_of_one(on_one):
    """Each normalises by the mean and variance of the whole batch, and no running mean is one device's."""
    assert_same(test_steps.on_host(*virtual_step(PLAIN)(first_state(PLAIN), cut(batch(), 4))), on_one)


@pytest.mark.devices
def test_real_devices_give_the_numbers_of_one(on_one):
    state = devices.replicate(first_state(PLAIN))
    assert_same(test_steps.on_host(*make_step(PLAIN)(state, devices.shard_batch(batch()))), on_one)


def test_it_learns_and_answers_by_running_statistics():
    constant = optax.constant_schedule(3e-3)
    tx = make_optimizer(constant, weight_decay=0.05, clip_norm=1.0, matrices=teacher.kernels)
    state = first_state(tx)
    for i in range(60):
        state, _ = virtual_step(tx)(state, cut(batch(i), 1))
    data = batch(100)
    logits, _ = teacher.make_teacher(NET, state.params, MEAN, STD, 4)(data["image"])
    known = slice(1, None)
    np.testing.assert_array_equal((logits[:, 0] > logits[:, 2])[known], data["truth"][known, 0] == 1)
    np.testing.assert_array_equal((logits[:, 1] > 0)[known], data["truth"][known, 1] == 1)
    # One by one as all together: of an image's answers none depends on the others.
    alone = [teacher.make_teacher(NET, state.params, MEAN, STD, 4)(data["image"][i : i + 1])[0] for i in (0, 5)]
    np.testing.assert_allclose(np.concatenate(alone), logits[np.array([0, 5])], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("widths", "number"), [((4, 8, 6), 14), ((4, 8), 12), ((5,), 5)])
def test_maps_are_those_of_the_last_two_stages_normalised_at_each_patch(widths, number):
    net = teacher.ConvNet(widths, 1, 2)
    variables = teacher.init(net, 16, seed=0)
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    logits, maps = teacher.make_teacher(net, variables, MEAN, STD, 4)(jnp.asarray(images))
    assert teacher.num_maps(widths) == number
    assert (logits.shape, maps.shape) == ((2, 2), (2, 16, number))
    for stage in np.split(np.asarray(maps), np.cumsum(widths[-2:])[:-1], axis=-1):
        np.testing.assert_allclose(stage.mean(axis=-1), 0, atol=1e-5)
        assert 0.95 < np.median(stage.var(axis=-1)) <= stage.var(axis=-1).max() < 1.001  # less where all are near 0
    # Patch by patch, row by row: what changes in the last corner changes there and not in the first.
    images[0, 12:, 12:] = 255 - images[0, 12:, 12:]
    _, after = teacher.make_teacher(net, variables, MEAN, STD, 4)(jnp.asarray(images))
    change = np.abs(np.asarray(after - maps))[0, :, : widths[-2:][0]].max(axis=-1)
    assert change[15] == change.max() > 0
    assert change[15] > 3 * change[0]
