"""beta and gamma, the weights of the hard-soft and of the prototype alignment.

    mpafer-jax study sweep --sweep=configs/sweeps/loss_weights.py:quickstart --workdir=runs/loss_weights

24 runs: 2 times 4 configurations (both tables hold the base), 3 seeds.
"""

from configs.sweeps import common
from mpafer_jax.jobs.sweeps.sweep import Sweep

_VALUES = (0.1, 0.3, 1.0, 3.0)


def get_sweep(argument: str) -> Sweep:
    return Sweep(
        title="Weights of the alignment terms",
        base=common.base(argument),
        points=(
            *common.along("loss.beta", _VALUES, 1.0, "beta = {}", table="beta", series="beta (gamma = 1)"),
            *common.along("loss.gamma", _VALUES, 1.0, "gamma = {}", table="gamma", series="gamma (beta = 1)"),
        ),
        tables={"beta": "beta, hard-soft alignment", "gamma": "gamma, prototype alignment"},
        axis="weight of the term",
    )
