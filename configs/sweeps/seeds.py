"""The full method over ten seeds: how much a single number can be trusted.

mpafer-jax study sweep --sweep=configs/sweeps/seeds.py:quickstart --workdir=runs/seeds
"""

from configs.sweeps import common
from mpafer_jax.jobs.sweeps.sweep import Point, Sweep


def get_sweep(argument: str) -> Sweep:
    return Sweep(
        title="Seeds",
        base=common.base(argument),
        points=(Point("full", "full method"),),
        seeds=tuple(range(10)),
    )
