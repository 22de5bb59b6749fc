"""Values of a hyper-parameter search: ranges at hand-computed points, and draws that stay what they are."""

import numpy as np
import pytest

from mpafer_jax.config.search_space import Choice, Factor, draw

SPACE = {"optimizer.learning_rate": Factor(0.1, 10.0), "head.local_weight": Choice((0.1, 0.3, 1.0))}
DEFAULTS = {"optimizer.learning_rate": 0.02, "head.local_weight": 1.0}


def drawn(space=SPACE, seed=100, method="full", trial=1):
    return draw(space, DEFAULTS, seed=seed, method=method, trial=trial)


def test_a_factor_is_uniform_in_the_logarithm():
    found = [Factor(0.01, 10.0).value(2.0, uniform) for uniform in (0.0, 1 / 3, 0.5, 2 / 3, 0.999999)]
    assert found == [0.02, 0.2, 0.632, 2.0, 20.0]
    assert Factor(0.01, 10.0).text(2.0) == "0.02 to 20, log-uniform"


def test_choices_are_equally_likely():
    choice = Choice((False, 3, "four"))
    assert [choice.value(None, uniform) for uniform in (0.0, 0.33, 0.34, 0.66, 0.67, 0.999)] == [
        *(False, False),
        *(3, 3),
        *("four", "four"),
    ]
    assert choice.text(None) == "False, 3, four"


def test_a_draw_is_a_function_of_seed_method_trial_and_field():
    values = [tuple(drawn(trial=trial).values()) for trial in range(1, 5)]
    assert values == [(0.0422, 0.1), (0.088, 0.3), (0.00695, 0.1), (0.0026, 1.0)]
    assert drawn(trial=0) == {}
    assert (
        len({drawn(seed=seed, method=m)["optimizer.learning_rate"] for seed in (0, 1) for m in ("full", "coop")}) == 4
    )
    alone = {"head.local_weight": SPACE["head.local_weight"]}
    assert drawn(alone) == {"head.local_weight": drawn()["head.local_weight"]}


def test_draws_fill_the_range():
    rates = np.log10([drawn(trial=trial)["optimizer.learning_rate"] / 0.02 for trial in range(1, 401)])
    assert np.histogram(rates, 4, (-1, 1))[0].tolist() == pytest.approx([100] * 4, abs=25)
