"""Numbers of a configuration as arguments of the training step: one program, and each run's own result."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpafer_jax.config.schema import Config, LossSection, OptimizerSection
from mpafer_jax.config.semantics import traced_numbers
from mpafer_jax.method import losses, optim, steps
from mpafer_jax.method.state import TrainState
from mpafer_jax.runtime import devices
from tests import tiny
from tests.tiny import FORWARD, MODEL, assert_close

NUM_STEPS = 20


def configured(name="sgd", loss=None, **optimizer) -> Config:
    optimizer = {"name": name, "warmup_steps": 2, "clip_norm": 5.0, **optimizer}
    loss = {"temperature": 0.1, "label_smoothing": 0.1, **(loss or {})}
    return Config(loss=LossSection(**loss), optimizer=OptimizerSection(**optimizer))


OTHER_LOSS = {"beta": 0.3, "gamma": 2.0, "token_weight": 0.5, "prompt_weight": 3.0, "temperature": 0.2}
OTHER = {"learning_rate": 0.05, "weight_decay": 0.1, "momentum": 0.5}


def step_of(config):
    """(state, frozen, batch) -> (state, metrics), for one device."""
    tx, _ = optim.configured_optimizer(config, MODEL.learner, NUM_STEPS)
    step = steps.make_train_step(forward=FORWARD, tx=tx, objective=losses.Objective.of(config.loss))

    def of_one(state, frozen, batch):
        result = jax.vmap(functools.partial(step, state, frozen), axis_name=devices.AXIS)(
            {name: x[None] for name, x in batch.items()}
        )
        return jax.tree.map(lambda x: x[0], result)

    return jax.jit(of_one), tx


def arguments(config, tx, *, traced):
    params = MODEL.learner.initial_params(0)
    state = TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))
    numbers = devices.replicate(traced_numbers(config)) if traced else {}
    return state, tiny.frozen(MODEL).replace(numbers=numbers)


@pytest.mark.parametrize(("name", "average"), [("sgd", 0), ("adamw", 0), ("sgd", 4)])
def test_runs_that_differ_in_numbers_share_a_program_and_keep_their_results(name, average):
    averaged = {"average": average, "average_mean": 3.0}
    one = configured(name, **averaged)
    other = configured(name, {**OTHER_LOSS, "label_smoothing": 0.3}, **OTHER, **averaged)
    step, tx = step_of(one)
    constants, other_tx = step_of(other)
    batches = [tiny.batch(seed=seed) for seed in range(NUM_STEPS)]
    lowered = [
        compiled.lower(*arguments(config, rule, traced=True), batches[0]).as_text()
        for compiled, config, rule in ((step, one, tx), (constants, other, other_tx))
    ]
    assert lowered[0] == lowered[1]
    state, frozen = arguments(other, tx, traced=True)
    expected, plain = arguments(other, other_tx, traced=False)
    for batch in batches:
        state, metrics = step(state, frozen, batch)
        expected, measured = constants(expected, plain, batch)
        assert_close(metrics, measured, rtol=1e-4, atol=1e-6)
    assert_close(state.params, expected.params, rtol=1e-5, atol=1e-5)
    moved = [np.abs(state.params[key] - arguments(one, tx, traced=False)[0].params[key]).max() for key in state.params]
    assert min(moved) > 1e-3


def test_zeros_stay_constants():
    numbers = traced_numbers(configured(loss={"gamma": 0.0, "label_smoothing": 0.0}, weight_decay=0.0))
    assert numbers.keys() == {"loss", "optimizer"}
    assert not {"gamma", "label_smoothing"} & numbers["loss"].keys()
    assert numbers["optimizer"] == {"learning_rate": 2.0e-3, "momentum": 0.9}
