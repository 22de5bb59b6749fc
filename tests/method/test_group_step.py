"""The training step of several runs: each has the result that it has alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpafer_jax.config.semantics import traced_numbers
from mpafer_jax.method import losses, optim, steps
from mpafer_jax.method.state import TrainState
from mpafer_jax.runtime import devices
from tests import tiny
from tests.method.test_traced_numbers import NUM_STEPS, OTHER, OTHER_LOSS, configured
from tests.tiny import FORWARD, MODEL, assert_close

CONFIGS = (configured(), configured(loss={**OTHER_LOSS, "label_smoothing": 0.3}, **OTHER))
TX, _ = optim.configured_optimizer(CONFIGS[0], MODEL.learner, NUM_STEPS)
STEP = steps.make_train_step(forward=FORWARD, tx=TX, objective=losses.Objective.of(CONFIGS[0].loss))


def on_one_device(step):
    def of_one(states, frozen, batch):
        mapped = jax.vmap(functools.partial(step, states, frozen), axis_name=devices.AXIS)
        return jax.tree.map(lambda x: x[0], mapped({name: x[None] for name, x in batch.items()}))

    return jax.jit(of_one)


ALONE = on_one_device(STEP)


def started(seed):
    params = MODEL.learner.initial_params(seed)
    return TrainState(jnp.zeros((), jnp.int32), params, TX.init(params))


def constants(config, seed, **numbers):
    """With prototypes of its own, as a few images of each class, drawn by seed, make them."""
    frozen = tiny.frozen(MODEL)
    values = traced_numbers(config)
    values["optimizer"] |= numbers
    prototypes = jax.random.normal(jax.random.key(seed), frozen.prototypes.shape)
    return frozen.replace(numbers=devices.replicate(values), prototypes=prototypes)


@pytest.mark.parametrize(("shared", "in_turn"), [(True, False), (False, False), (False, True), (True, True)])
def test_each_run_has_the_result_that_it_has_alone(shared, in_turn):
    together = on_one_device(steps.make_group_step(STEP, shared_batch=shared, in_turn=in_turn))
    frozen = tuple(constants(config, seed) for seed, config in enumerate(CONFIGS))
    states = alone = (started(0), started(1))
    for number in range(NUM_STEPS):
        batches = [tiny.batch(seed=number if shared else 100 * run + number, masked=3) for run in (0, 1)]
        given = {name: np.stack([batch[name] for batch in batches], axis=1) for name in batches[0]}
        results = together(states, frozen, batches[0] if shared else given)
        expected = [ALONE(*one) for one in zip(alone, frozen, batches, strict=True)]
        states, alone = (tuple(state for state, _ in of_all) for of_all in (results, expected))
        assert_close([x for _, x in results], [x for _, x in expected], rtol=1e-4, atol=1e-5)
    for one, other in zip(states, alone, strict=True):
        assert_close(one.params, other.params, rtol=1e-5, atol=1e-5)
        assert int(one.step) == NUM_STEPS
    assert np.abs(states[0].params["ctx"] - states[1].params["ctx"]).max() > 1e-2


def test_a_run_that_fails_does_not_touch_the_other():
    together = on_one_device(steps.make_group_step(STEP, shared_batch=True))
    sound = constants(CONFIGS[0], 0)
    ends = []
    for rate in (2.0e-3, 1e38):
        states, frozen = (started(0), started(1)), (sound, constants(CONFIGS[1], 1, learning_rate=rate))
        for number in range(4):
            (states, _) = zip(*together(states, frozen, tiny.batch(seed=number)), strict=True)
        ends.append(states)
    assert not np.isfinite(ends[1][1].params["ctx"]).all()
    jax.tree.map(np.testing.assert_array_equal, ends[0][0], ends[1][0])
