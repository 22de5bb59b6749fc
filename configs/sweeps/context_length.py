"""M, the number of context vectors of a soft prompt.

    mpafer-jax study sweep --sweep=configs/sweeps/context_length.py:quickstart --workdir=runs/context_length

15 runs: 5 configurations, 3 seeds.
"""

from configs.sweeps import common
from mpafer_jax.jobs.sweeps.sweep import Sweep


def get_sweep(argument: str) -> Sweep:
    return Sweep(
        title="Length of the context",
        base=common.base(argument),
        points=common.along("ctx.num_ctx", (1, 2, 4, 10, 16), 10, "M = {}"),
        axis="M, context vectors of a soft prompt",
    )
