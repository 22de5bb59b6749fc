"""Schedule, update rules, patterns."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mpafer_jax.config import schema
from mpafer_jax.method import optim

PARAMS = {"ctx": jnp.ones((2, 3)), "visual_prompts": jnp.ones((1, 2, 3))}
ONES = {"ctx": jnp.ones((2, 3)), "visual_prompts": jnp.ones((1, 2, 3))}


def make(**changes):
    options = {
        "name": "sgd",
        "schedule": optax.constant_schedule(0.1),
        "lr_scales": (("ctx", 1.0), ("visual_prompts", 1.0)),
        "momentum": 0.9,
        "weight_decay": 0.0,
        "clip_norm": 0.0,
    }
    return optim.make_optimizer(PARAMS, **{**options, **changes})


def one_update(tx, grads=ONES):
    updates, _ = tx.update(grads, tx.init(PARAMS), PARAMS)
    return updates


def test_schedule_warms_up_then_decays_to_zero():
    schedule = optim.make_schedule(learning_rate=1.0, warmup_steps=4, num_steps=14)
    values = [float(schedule(i)) for i in range(15)]
    np.testing.assert_allclose(values[:5], [0.2, 0.4, 0.6, 0.8, 1.0], rtol=1e-6)
    np.testing.assert_allclose(values[9], 0.5, rtol=1e-5)  # half way down the cosine
    assert values[14] == pytest.approx(0, abs=1e-6)
    assert values[4:] == sorted(values[4:], reverse=True)


def test_no_warmup_starts_at_the_peak():
    assert float(optim.make_schedule(learning_rate=0.3, warmup_steps=0, num_steps=10)(0)) == pytest.approx(0.3)


def test_warmup_longer_than_the_run_is_refused():
    with pytest.raises(ValueError, match=r"warmup_steps is 10.*10 steps"):
        optim.make_schedule(learning_rate=1.0, warmup_steps=10, num_steps=10)


def test_sgd_by_hand():
    tx = make(momentum=0.5, weight_decay=0.1)
    state = tx.init(PARAMS)
    first, state = tx.update(ONES, state, PARAMS)
    np.testing.assert_allclose(first["ctx"], -0.1 * 1.1, rtol=1e-6)  # gradient 1, decay 0.1 * 1
    second, _ = tx.update(ONES, state, PARAMS)
    np.testing.assert_allclose(second["ctx"], -0.1 * (1.1 + 0.5 * 1.1), rtol=1e-6)


def test_adamw_decays_apart_from_the_gradient():
    plain, decayed = one_update(make(name="adamw")), one_update(make(name="adamw", weight_decay=0.5))
    np.testing.assert_allclose(plain["ctx"], -0.1, rtol=1e-4)
    np.testing.assert_allclose(decayed["ctx"] - plain["ctx"], -0.1 * 0.5, rtol=1e-4)


def test_adamws_first_moment_by_hand():
    """Gradients 1 and -1: the moment is (b1 - 1) / (1 + b1) after the second, that of the squares stays 1."""
    for momentum in (0.5, 0.9):
        tx = make(name="adamw", momentum=momentum)
        _, state = tx.update(ONES, tx.init(PARAMS), PARAMS)
        second, _ = tx.update({name: -value for name, value in ONES.items()}, state, PARAMS)
        np.testing.assert_allclose(second["ctx"], 0.1 * (1 - momentum) / (1 + momentum), rtol=1e-4)


def test_scales_and_freezing_by_first_match():
    updates = one_update(make(lr_scales=(("visual_.*", 0.5), ("ctx", 0.0), (".*", 9.0))))
    np.testing.assert_allclose(updates["visual_prompts"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates["ctx"], 0)


def test_which_parameters_are_trained():
    scales = (("visual_.*", 0.5), ("ctx", 0.0), (".*", 9.0))
    assert optim.trained(("visual_prompts", "ctx", "ctx2"), scales) == ("visual_prompts", "ctx2")
    with pytest.raises(ValueError, match=r"no pattern of \['ctx'\] matches the parameter 'visual_prompts'"):
        optim.trained(["visual_prompts"], (("ctx", 1.0),))


def test_a_pattern_of_no_parameter_is_refused():
    names = ("ctx", "visual_prompts")
    for scales in ((("visual.*", 0.0), (".*", 1.0)), (("ctx", 1.0), ("visual_prompts", 0.5))):
        optim.check_patterns(names, scales)
    optim.check_patterns(("ctx",), schema.OptimizerSection().lr_scales)
    with pytest.raises(ValueError, match=r"'visual' matches none of the parameters ctx, visual_prompts; .* whole of a"):
        optim.check_patterns(names, (("visual", 0.0), (".*", 1.0)))


def test_a_run_of_no_steps_is_refused():
    with pytest.raises(ValueError, match="the run has 0 steps, so nothing would be trained; train longer"):
        optim.make_schedule(learning_rate=0.1, warmup_steps=0, num_steps=0)


def test_a_run_in_which_nothing_is_trained_is_refused():
    with pytest.raises(ValueError, match=r"lr_scales \(\('.\*', 0.0\),\) freezes every parameter"):
        make(lr_scales=((".*", 0.0),))


def test_a_parameter_that_no_pattern_matches_is_an_error():
    with pytest.raises(ValueError, match=r"no pattern of .*'ctx'.* matches the parameter 'visual_prompts'"):
        make(lr_scales=(("ctx", 1.0), ("visual", 1.0)))


def test_clipping_is_by_the_norm_over_all_parameters():
    updates = one_update(make(clip_norm=1.0))  # twelve ones: norm sqrt(12)
    np.testing.assert_allclose(updates["ctx"], -0.1 / np.sqrt(12), rtol=1e-5)
    np.testing.assert_allclose(updates["visual_prompts"], -0.1 / np.sqrt(12), rtol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_frozen_parameter_has_no_part_in_the_norm(name):
    grads = {"ctx": jnp.full((2, 3), 1000.0), "visual_prompts": jnp.full((1, 2, 3), 0.2)}  # the latter's norm: 0.49
    scales = (("ctx", 0.0), ("visual_prompts", 1.0))
    limited, free = (one_update(make(name=name, clip_norm=norm, lr_scales=scales), grads) for norm in (0.5, 0.0))
    np.testing.assert_array_equal(limited["visual_prompts"], free["visual_prompts"])
    np.testing.assert_array_equal(limited["ctx"], 0)
    clipped = one_update(make(clip_norm=0.1, lr_scales=scales), grads)["visual_prompts"]
    np.testing.assert_allclose(clipped, -0.1 * 0.1 / np.sqrt(6), rtol=1e-5)
